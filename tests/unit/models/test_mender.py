from __future__ import annotations

import threading

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


def test_a_version_whose_files_hang_holds_up_no_other() -> None:
    back = threading.Event()
    stamps = {"/m/1": "before", "/n/1": "after"}

    def stamp(path: str) -> str:
        if path == "/m/1":
            back.wait()
        return stamps[path]

    retried: list[tuple[str, int]] = []
    failed = [Failed(name, Aspired(1, f"/{name}/1"), "before") for name in "mn"]
    mender = Mender(lambda: failed, stamp, lambda name, version: retried.append((name, version)), patience_s=0.05)
    for _ in range(2):
        mender.look()
    assert retried == [("n", 1)]
    back.set()
