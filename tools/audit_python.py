"""Asks PyPI for known weaknesses of the installed packages, with pip-audit.

    python tools/audit_python.py

Ends with 1 if there are any. If the service cannot be reached, or knows none of the packages (as mirrors do, which have
files and no weaknesses), it says that nothing was checked and ends with 0, or
with 1 if the variable AUDIT_REQUIRED is set.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

OURS = "servable"


@dataclass(frozen=True)
class Verdict:
    """What the service knew: how many packages, and the lines about those that are weak."""

    checked: int
    skipped: int
    weak: tuple[str, ...]


def verdict(report: Any) -> Verdict:
    """Read pip-audit's JSON."""
    packages = [package for package in report["dependencies"] if package["name"] != OURS]
    known = [package for package in packages if "skip_reason" not in package]
    weak = tuple(
        f"{package['name']} {package['version']}: {one['id']}, fixed in {' or '.join(one['fix_versions']) or 'none'}"
        for package in known
        for one in package["vulns"]
    )
    return Verdict(len(known), len(packages) - len(known), weak)


def unchecked(reason: str) -> int:
    print(f"weaknesses of Python packages SKIPPED, not checked: {reason}")
    return 1 if os.environ.get("AUDIT_REQUIRED") else 0


def main() -> int:
    command = [sys.executable, "-m", "pip_audit", "--local", "--progress-spinner=off", "--format=json", "--timeout=10"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        found = verdict(json.loads(done.stdout))
    except ValueError:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return unchecked(f"pip-audit ended with {done.returncode}: {last}")
    for line in found.weak:
        print(line, file=sys.stderr)
    if not found.checked:
        return unchecked(f"the service knew none of {found.skipped} packages; it cannot be reached from here")
    print(f"{found.checked} Python packages checked, {len(found.weak)} weaknesses; {found.skipped} not known to PyPI")
    return 1 if found.weak else 0


if __name__ == "__main__":
    sys.exit(main())
