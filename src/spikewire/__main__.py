"""``python -m spikewire`` is the command ``spikewire``."""

from spikewire.cli import main

if __name__ == "__main__":
    main()
