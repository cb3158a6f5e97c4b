from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from servable.storage.aside import MOST_LEFT_BEHIND, Aside

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


def refuse(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_without_a_thread_nothing_is_asked(mount: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    aside = Aside(mount.ask, patience_s=0.1)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        answers = aside.ask_all(["/a", "/hangs"])
    assert [str(answers[key]) for key in ("/a", "/hangs")] == ["there is no thread to ask it"] * 2
    assert mount.asked == []
    assert aside.ask_all(["/a"]) == {"/a": "/A"}


def test_what_is_left_when_threads_run_out_is_not_asked(mount: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = mount.ask

    def run_out(path: str) -> str:
        monkeypatch.setattr(threading.Thread, "start", refuse)
        return ask(path)

    answers = Aside(run_out, patience_s=0.1).ask_all(["/a", "/hangs", "/b"])
    assert answers["/a"] == "/A"
    assert str(answers["/hangs"]) == "it does not answer"
    assert str(answers["/b"]) == "there is no thread to ask it"


@pytest.mark.parametrize("folder", ["/gone", "/gone{number}"])
def test_a_bounded_number_of_threads_is_left_behind(folder: str, mount: Mount) -> None:
    """Where one path hangs, those beside it most likely do: other places are not to suffer from that."""
    gone = [f"{folder.format(number=number)}/{number}" for number in range(2 * MOST_LEFT_BEHIND)]
    mount.hanging = set(gone)
    aside = Aside(mount.ask, patience_s=0.05)
    before = threading.active_count()
    for _ in range(2):
        answers = aside.ask_all([*gone, "/m/1", "/m/2"])
        assert all(isinstance(answers[key], TimeoutError) for key in gone)
    assert threading.active_count() - before <= MOST_LEFT_BEHIND
    if folder == "/gone":
        assert (answers["/m/1"], answers["/m/2"]) == ("/M/1", "/M/2")
    mount.back.set()
    wait_until(lambda: aside.ask_all(gone) == {key: key.upper() for key in gone}, "the mount is back")


def test_a_round_ends_and_the_next_one_begins_with_what_was_left() -> None:
    keys = [str(number) for number in range(40)]
    asked: list[str] = []

    def ask(key: str) -> str:
        asked.append(key)
        threading.Event().wait(0.02)
        return key

    aside = Aside(ask, patience_s=0.05, round_s=0.1)
    answers = aside.ask_all(keys)
    left = [key for key in keys if isinstance(answers[key], TimeoutError) and key not in asked]
    assert left
    assert str(answers[left[0]]) == "others took too long"
    asked.clear()
    aside.ask_all(keys)
    assert asked[0] == left[0]
