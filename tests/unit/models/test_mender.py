from __future__ import annotations

from servable.models.manager import Failed
from servable.models.mender import Mender
from servable.models.source import Aspired


def test_a_failed_version_is_tried_again_when_its_files_have_changed_and_settled() -> None:
    failed = [Failed("m", Aspired(1, "/m/1"), "old")]
    stamps = {"/m/1": "old"}
    retried: list[tuple[str, int]] = []
    mender = Mender(lambda: failed, stamps.__getitem__, lambda name, version: retried.append((name, version)))

    mender.look()
    mender.look()
    assert retried == [], "nothing has changed"
    for stamp in ("half", "more", "all"):
        stamps["/m/1"] = stamp
        mender.look()
    assert retried == [], "it was still changing"
    mender.look()
    assert retried == [("m", 1)]


def test_what_has_not_failed_is_not_looked_at() -> None:
    looked: list[str] = []

    def stamp(path: str) -> str:
        looked.append(path)
        return ""

    Mender(lambda: [], stamp, lambda name, version: None).look()
    assert looked == []
