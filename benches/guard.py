"""Counts the instructions of what every request passes, and compares them with those that are kept in `guard.json`.

    python benches/guard.py [--update] [--if-comparable] [--only TEXT]

Instructions, counted by valgrind, do not depend on how fast or busy a machine is. They do depend on the compiler, the C
library and valgrind: counts taken with others are not compared. The cases are those of `crates/net/benches/guard.rs`;
each is run with two numbers of times, whose difference is without what starting takes. A count may be `MARGIN` more
than the one that is kept. Ends with 1 if one is more, or if a case is missing on either side.

Needs valgrind (on Debian: apt-get install valgrind).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).resolve().parent
KEPT = HERE / "guard.json"
MARGIN = 0.03
BUILD = (
    *("cargo", "bench", "--locked", "--profile=guard", "--package=servable-net", "--bench=guard"),
    *("--no-run", "--message-format=json"),
)


@dataclasses.dataclass(frozen=True)
class Counts:
    """Instructions for each case, and with what they were counted."""

    tools: Mapping[str, str]
    cases: Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class Finding:
    """What there is to say of a case."""

    case: str
    text: str
    is_bad: bool


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare instruction counts with those that are kept")
    parser.add_argument("--update", action="store_true", help="keep the counts of now")
    parser.add_argument("--if-comparable", action="store_true", help="end with 0 where counts cannot be compared")
    parser.add_argument("--only", default="", help="only cases whose names have this in them")
    arguments = parser.parse_args()
    obstacle = None if shutil.which("valgrind") else "valgrind is not installed"
    kept = read()
    tools = {} if obstacle else tools_here()
    if not obstacle and not arguments.update and kept.tools != tools:
        obstacle = f"counts were taken with {described(kept.tools)}, and here is {described(tools)}"
    if obstacle:
        print(f"SKIPPED: {obstacle}" if arguments.if_comparable else f"not comparable: {obstacle}")
        return 0 if arguments.if_comparable else 2
    binary = build()
    counts = {case: count(binary, case, times) for times, case in cases(binary) if arguments.only in case}
    if arguments.update:
        merged = {**kept.cases, **counts} if arguments.only else counts
        KEPT.write_text(json.dumps({"tools": tools, "cases": merged}, indent=1) + "\n")
    findings = compare({case: n for case, n in read().cases.items() if arguments.only in case}, counts)
    width = max(len(finding.case) for finding in findings)
    for finding in findings:
        print(f"{finding.case:{width}}  {finding.text}")
    if any(finding.is_bad for finding in findings):
        print(f"FAILED: more than {MARGIN:.0%} over what is kept. If that is worth it: make bench-guard GUARD=--update")
        return 1
    return 0


def compare(kept: Mapping[str, int], counts: Mapping[str, int]) -> list[Finding]:
    """What there is to say of each case, in the order of what was counted."""
    findings = [verdict(case, kept.get(case), found) for case, found in counts.items()]
    return findings + [Finding(case, "is kept, and no such case was run", True) for case in kept if case not in counts]


def verdict(case: str, kept: int | None, found: int) -> Finding:
    if kept is None:
        return Finding(case, f"{found:,}: nothing is kept to compare it with", True)
    change = found / kept - 1
    text = f"{found:>12,} instructions, {change:+.1%}"
    if change < -MARGIN:
        text += ": better than what is kept, which can be updated"
    return Finding(case, text, change > MARGIN)


def read() -> Counts:
    found = json.loads(KEPT.read_text()) if KEPT.exists() else {"tools": {}, "cases": {}}
    return Counts(found["tools"], found["cases"])


def tools_here() -> dict[str, str]:
    """What counts depend on besides the code."""
    rustc = output("rustc", "--version").split()[1]
    return {
        "machine": platform.machine(),
        "rustc": rustc,
        "libc": " ".join(platform.libc_ver()),
        "valgrind": output("valgrind", "--version").strip().removeprefix("valgrind-"),
    }


def described(tools: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in tools.items()) or "nothing"


def output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=HERE.parent).stdout


def build() -> Path:
    """The cases, built as `Cargo.toml` says, whatever the environment does."""
    settings = {name: value for name, value in os.environ.items() if not name.startswith("CARGO_PROFILE_")}
    settings["CARGO_INCREMENTAL"] = "0"
    done = subprocess.run(BUILD, check=True, stdout=subprocess.PIPE, text=True, cwd=HERE.parent, env=settings)
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    (binary,) = (
        message["executable"]
        for message in messages
        if message["reason"] == "compiler-artifact" and message["target"]["name"] == "guard"
    )
    return Path(binary)


def cases(binary: Path) -> list[tuple[int, str]]:
    """How often to run each case, and its name."""
    lines = (line.split(" ", 1) for line in output(str(binary)).splitlines())
    return [(int(times), case) for times, case in lines]


def count(binary: Path, case: str, times: int) -> int:
    once, twice = (total(binary, case, many) for many in (times, 2 * times))
    return round((twice - once) / times)


def total(binary: Path, case: str, times: int) -> int:
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", str(binary), case, str(times)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if not found:
        raise SystemExit(f"{case}: valgrind gives no count\n{done.stderr}")
    return int(found[1])


if __name__ == "__main__":
    sys.exit(main())
