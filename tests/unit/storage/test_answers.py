from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from servable.storage.answers import Answers

from tests.e2e.server import wait_until
from tests.unit.fakes import FakeClock


class Slow:
    """A store whose answers the test gives out, or that answers at once."""

    def __init__(self, *, period_s: float = 30.0, patience_s: float = 10.0) -> None:
        self.clock = FakeClock()
        self.open = threading.Event()
        self.open.set()
        self.asked: list[str] = []
        self.error: Exception | None = None
        self.answer = "a"
        self.answers = Answers(
            self._ask,
            period_s,
            is_fault=lambda error: not isinstance(error, FileNotFoundError),
            patience_s=patience_s,
            clock=self.clock,
        )

    def _ask(self, key: str) -> str:
        self.asked.append(key)
        self.open.wait()
        if self.error is not None:
            raise self.error
        return f"{key}{self.answer}"

    def settle(self, key: str, expected: str) -> None:
        wait_until(lambda: self.answers.latest(key) == expected, f"the answer {expected}")


@pytest.fixture
def slow() -> Iterator[Slow]:
    store = Slow(patience_s=0.2)
    yield store
    store.open.set()


def test_the_first_answer_is_waited_for() -> None:
    assert Slow().answers.get("x") == "xa"


def test_an_answer_is_reused_for_a_period_and_then_renewed_aside() -> None:
    slow = Slow()
    assert slow.answers.get("x") == "xa"
    slow.answer = "b"
    for second in (1, 10, 29):
        slow.clock.now = second
        assert slow.answers.get("x") == "xa"
    assert slow.asked == ["x"]
    slow.clock.now = 30
    slow.open.clear()
    assert slow.answers.get("x") == "xa"
    slow.open.set()
    slow.settle("x", "xb")
    assert slow.answers.get("x") == "xb"


def test_an_old_answer_is_not_taken_for_a_new_one() -> None:
    """Who asks seldom, at reloads only, waits for what is true now."""
    slow = Slow()
    assert slow.answers.get("x") == "xa"
    slow.answer = "b"
    slow.clock.now = 1000
    assert slow.answers.get("x") == "xb"


def test_a_failure_is_raised_and_asked_again_soon() -> None:
    slow = Slow()
    slow.error = FileNotFoundError("gone")
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            slow.answers.get("x")
    assert slow.asked == ["x"]
    slow.clock.now = 5
    slow.open.clear()
    with pytest.raises(FileNotFoundError):
        slow.answers.get("x")
    slow.error = None
    slow.open.set()
    slow.settle("x", "xa")
    assert slow.answers.get("x") == "xa"


def test_a_failure_keeps_what_was_known(slow: Slow) -> None:
    slow.answers.get("x")
    slow.error = FileNotFoundError("gone")
    slow.clock.now = 1000
    with pytest.raises(FileNotFoundError):
        slow.answers.get("x")
    assert slow.answers.latest("x") == "xa"


def test_a_store_that_hangs_is_waited_for_once(slow: Slow) -> None:
    slow.open.clear()
    for key in ("x", "y", "z"):
        with pytest.raises(TimeoutError, match=f"{key}: no answer yet"):
            slow.answers.get(key)
        slow.clock.now = 0.2
    wait_until(lambda: sorted(slow.asked) == ["x", "y", "z"], "all are asked aside")
    slow.open.set()
    slow.settle("z", "za")
    assert slow.answers.get("z") == "za"


def test_a_store_that_fails_is_waited_for_once(slow: Slow) -> None:
    slow.error = ConnectionError("refused")
    with pytest.raises(ConnectionError):
        slow.answers.get("x")
    slow.open.clear()
    with pytest.raises(TimeoutError):
        slow.answers.get("y")


def test_what_is_missing_does_not_make_others_wait(slow: Slow) -> None:
    slow.error = FileNotFoundError("gone")
    for key in ("x", "y"):
        with pytest.raises(FileNotFoundError):
            slow.answers.get(key)


def test_few_questions_are_put_at_a_time(slow: Slow) -> None:
    slow.open.clear()
    for index in range(20):
        with pytest.raises(TimeoutError):
            slow.answers.get(str(index))
        slow.clock.now = 0.2
    assert len(slow.asked) <= 4
    slow.open.set()
    wait_until(lambda: len(slow.asked) == 20, "all are asked in turn")


def test_what_nobody_wants_to_know_is_forgotten() -> None:
    slow = Slow()
    slow.answers.get("x")
    slow.clock.now = 3601
    slow.answers.get("y")
    assert slow.answers.latest("x") is None


def test_a_question_that_gets_no_thread_is_asked_the_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    slow = Slow()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(TimeoutError):
            slow.answers.get("x")
    assert slow.answers.get("x") == "xa"
    assert slow.asked == ["x"]
