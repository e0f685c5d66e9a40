"""Write the tables of the documentation from the records, in place.

A table stands between two comments, the first of which names a study and a table of it::

    <!-- paper-g table-4 -->
    | method | ... |
    <!-- end -->
"""

import re
from pathlib import Path

from spikewire import study, tables
from spikewire.records import Records

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PLACE = re.compile(r"<!-- (?P<study>[\w-]+) (?P<table>[\w-]+) -->\n.*?<!-- end -->", re.DOTALL)


def filled(page: str) -> str:
    """The page with every table as the records have it now."""
    return PLACE.sub(_table, page)


def _table(place: re.Match[str]) -> str:
    name, table = place["study"], place["table"]
    rows = Records(study.read(name), ROOT / "reproduce" / name).table(table)
    lines = tables.markdown(*tables.text([row for row in rows if row["seeds"]]))
    return f"<!-- {name} {table} -->\n{lines}\n<!-- end -->"


if __name__ == "__main__":
    for path in PAGES:
        path.write_text(filled(path.read_text()))
