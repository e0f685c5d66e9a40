PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test sanitize lint types bench docs build clean

# The stamp is newer than the project file and the kernels once everything is installed.
.venv/installed: pyproject.toml constraints.txt CMakeLists.txt $(wildcard src/spikewire/runtime/kernels/*pp)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

# Three seeds side by side, each beside its dense twin, one thread each: the network is tiny.
DEMO := runs/demo/seed-0 runs/demo/seed-1 runs/demo/seed-2

demo: .venv/installed
	@echo "training six small networks, about two minutes ..."
	@$(MAKE) --no-print-directory --jobs 3 $(DEMO:%=%/report.json)
	$(BIN)/spikewire report $(DEMO)

runs/demo/seed-%/report.json: | .venv/installed
	@OMP_NUM_THREADS=1 $(BIN)/spikewire train digits seed=$* --out $(@D) --json > /dev/null

# Two at a time with one thread each: the tensors are small.
test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

# The kernels under AddressSanitizer and UBSan.
sanitize: .venv/installed
	$(BIN)/python tests/runtime/sanitize.py

lint: .venv/installed
	$(BIN)/ruff check src tests benchmarks examples
	$(BIN)/ruff format --check src tests benchmarks examples

types: .venv/installed
	$(BIN)/pyright

bench: .venv/installed
	$(BIN)/python benchmarks/train_step.py
	$(BIN)/python benchmarks/event.py
	$(BIN)/python benchmarks/criticality.py
	$(BIN)/python benchmarks/compact.py
	$(BIN)/python benchmarks/engine.py

TRACKS := $(wildcard reproduce/leaderboard-*)

# All tables and figures, from the records.
docs: .venv/installed
	for study in reproduce/*/; do $(BIN)/spikewire reproduce $$(basename $$study) > /dev/null || exit 1; done
	$(if $(TRACKS),$(BIN)/spikewire leaderboard $(TRACKS) --out docs/leaderboard)
	$(BIN)/python docs/tables.py

build: .venv/installed
	$(BIN)/python -m build

clean:
	rm -rf .venv build dist runs
