"""How instruction counts are compared with those that are kept."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[3] / "benches" / "guard.py"
SPEC = importlib.util.spec_from_file_location("guard", SOURCE)
assert SPEC
assert SPEC.loader
guard = importlib.util.module_from_spec(SPEC)
sys.modules["guard"] = guard  # data classes look their module up
SPEC.loader.exec_module(guard)


@pytest.mark.parametrize(
    ("found", "is_bad"), [(1000, False), (1029, False), (1031, True), (971, False), (500, False), (2000, True)]
)
def test_a_case_may_take_a_little_more_than_is_kept(found: int, is_bad: bool) -> None:
    (finding,) = guard.compare({"decode": 1000}, {"decode": found})
    assert finding.is_bad == is_bad


def test_what_got_better_by_more_than_the_margin_is_told() -> None:
    (finding,) = guard.compare({"decode": 1000}, {"decode": 900})
    assert "can be updated" in finding.text


def test_a_case_that_is_missing_on_either_side_is_a_failure() -> None:
    findings = guard.compare({"decode": 10, "gone": 10}, {"decode": 10, "new": 10})
    assert [(finding.case, finding.is_bad) for finding in findings] == [
        ("decode", False),
        ("new", True),
        ("gone", True),
    ]


def test_cases_are_kept_for_every_part_of_a_request() -> None:
    kept = guard.read()
    assert {case.replace(",", "").split()[0] for case in kept.cases} == {"decode", "encode", "route", "run"}
    assert set(kept.tools) == {"machine", "rustc", "libc", "valgrind"}
