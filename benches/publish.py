"""Puts what the benchmarks found into docs/performance.md, and their pictures beside it.

    python benches/publish.py [NAME ...]

Each program leaves its tables in `benches/results/NAME.md`; they go between `<!-- NAME -->` and `<!-- /NAME -->`. What
to make of them stands around that, written by hand. Without names, everything goes there that has been measured.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
RESULTS, DOCUMENT = HERE / "results", HERE.parent / "docs" / "performance.md"


def main(names: list[str]) -> int:
    text = DOCUMENT.read_text()
    for name in names or re.findall(r"<!-- /(\w+) -->", text):
        results = RESULTS / f"{name}.md"
        if not results.exists():
            if names:
                raise SystemExit(f"{name} has not been measured: {results} is not there")
            continue
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise SystemExit(f"{DOCUMENT}: {begin.strip()} and {end} have to be there once")
        before, rest = text.split(begin)
        text = before + begin + results.read_text() + end + rest.split(end)[1]
        picture = RESULTS / f"{name}.svg"
        if picture.exists():
            shutil.copy(picture, DOCUMENT.parent)
    DOCUMENT.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
