from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from servable.storage.aside import Aside

from tests.e2e.server import wait_until


class Mount:
    """Answers at once, but for paths that hang until the test ends that."""

    def __init__(self) -> None:
        self.hanging = {"/hangs", "/hangs too"}
        self.back = threading.Event()
        self.asked: list[str] = []

    def ask(self, path: str) -> str:
        self.asked.append(path)
        if path in self.hanging:
            self.back.wait()
        if path == "/missing":
            raise FileNotFoundError(path)
        return path.upper()


@pytest.fixture
def mount() -> Iterator[Mount]:
    mount = Mount()
    yield mount
    mount.back.set()


def test_each_key_is_asked_about_once(mount: Mount) -> None:
    answers = Aside(mount.ask).ask_all(["/a", "/missing", "/b", "/a"])
    assert (answers["/a"], answers["/b"]) == ("/A", "/B")
    assert isinstance(answers["/missing"], FileNotFoundError)
    assert mount.asked == ["/a", "/missing", "/b"]
    assert Aside(mount.ask).ask_all([]) == {}


def test_what_hangs_holds_up_no_other_and_is_not_asked_again_before_it_returns(mount: Mount) -> None:
    aside = Aside(mount.ask, patience_s=0.1)
    keys = ["/a", "/hangs", "/b", "/hangs too", "/c"]
    for _ in range(3):
        answers = aside.ask_all(keys)
        assert [answers[key] for key in ("/a", "/b", "/c")] == ["/A", "/B", "/C"]
        assert all(isinstance(answers[key], TimeoutError) for key in mount.hanging)
    assert [mount.asked.count(key) for key in keys] == [3, 1, 3, 1, 3]
    mount.back.set()
    wait_until(lambda: aside.ask_all(keys)["/hangs"] == "/HANGS", "the mount is back")


def test_without_a_thread_questions_are_asked_where_they_come_up(mount: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert Aside(mount.ask).ask_all(["/a"]) == {"/a": "/A"}
