from __future__ import annotations

from servable.errors import ServableError
from servable.models.source import Aspired
from servable.models.version import CUT, LONGEST_TEXT, Phase, Version
from servable.types import State


def test_a_version_that_waits_for_memory_says_so() -> None:
    version = Version("m", Aspired(1, "/m/1"), state=State.LOADING)
    assert version.route(on_demand=False).remark == ""
    version.phase = Phase.QUEUED
    assert version.route(on_demand=False).remark == "it waits for memory"
    version.phase = Phase.LOADING
    assert version.route(on_demand=False).remark == ""


def test_texts_about_a_version_are_bounded() -> None:
    version = Version("m", Aspired(1, "/m/1"), state=State.LOADING, error=ServableError("x" * 100_000, code="INTERNAL"))
    assert version.route(on_demand=False).remark == "INTERNAL: ".ljust(LONGEST_TEXT, "x") + CUT
    version.end(version.error)
    assert version.route(on_demand=False).error_message == "x" * LONGEST_TEXT + CUT
    version.end(ServableError("x" * LONGEST_TEXT, code="INTERNAL"))
    assert version.route(on_demand=False).error_message == "x" * LONGEST_TEXT
