"""What the audit of Python packages makes of what pip-audit says."""

from __future__ import annotations

from typing import Any

import pytest

from tools.audit_python import Verdict, verdict

GOOD = {"name": "good", "version": "1", "vulns": []}
WEAK = {"name": "weak", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}
UNKNOWN = {"name": "unknown", "skip_reason": "not found"}
OURS = {"name": "servable", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("packages", "expected"),
    [
        ([], Verdict(0, 0, ())),
        ([GOOD, OURS], Verdict(1, 0, ())),
        ([UNKNOWN, OURS], Verdict(0, 1, ())),
        ([GOOD, UNKNOWN, WEAK], Verdict(2, 1, ("weak 2: CVE-1, fixed in 3",))),
    ],
)
def test_a_package_that_nobody_knows_is_not_checked(packages: list[Any], expected: Verdict) -> None:
    assert verdict({"dependencies": packages, "fixes": []}) == expected
