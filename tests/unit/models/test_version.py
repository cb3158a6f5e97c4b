from __future__ import annotations

from servable.errors import ServableError
from servable.models.source import Aspired
from servable.models.version import Phase, Version
from servable.types import State


def test_a_version_that_waits_for_memory_or_for_others_says_so() -> None:
    version = Version("m", Aspired(1, "/m/1"), state=State.LOADING)
    assert version.route(on_demand=False).remark == ""
    version.phase = Phase.QUEUED
    assert version.route(on_demand=False).remark == "it waits for memory"
    version.phase = Phase.GRANTED
    assert version.route(on_demand=False).remark == "it waits for versions of its model that are not wanted to go"
    version.phase = Phase.LOADING
    assert version.route(on_demand=False).remark == ""


def test_texts_about_a_version_take_4_kib_at_most() -> None:
    version = Version("m", Aspired(1, "/m/1"), state=State.LOADING, error=ServableError("x" * 100_000, code="INTERNAL"))
    assert version.route(on_demand=False).remark == "INTERNAL: ".ljust(4084, "x") + "...TRUNCATED"
    version.end(version.error)
    assert version.route(on_demand=False).error_message == "x" * 4084 + "...TRUNCATED"
    for text in ("x" * 4096, "é" * 2048):
        version.end(ServableError(text, code="INTERNAL"))
        assert version.route(on_demand=False).error_message == text
    version.end(ServableError("x" + "é" * 2048, code="INTERNAL"))
    assert version.route(on_demand=False).error_message == "x" + "é" * 2041 + "...TRUNCATED"
