from __future__ import annotations

import threading

import pytest
from servable.control.answers import MOST_WAITING, Handler, Wait, answer_calls
from servable.errors import NotFoundError, ServableError, UnimplementedError


class FakeCall:
    def __init__(self, method: str) -> None:
        self.method, self.request = method, b"request"
        self.answer: object = None
        self._answered = threading.Event()

    def reply(self, response: bytes) -> None:
        self.answer = response
        self._answered.set()

    def fail(self, code: str, message: str) -> None:
        self.answer = (code, message)
        self._answered.set()

    def wait(self) -> object:
        assert self._answered.wait(10)
        return self.answer


class World:
    """Calls are answered until the list of them is at its end."""

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self.release = threading.Event()

    def find(self, method: str) -> Handler:
        handlers = {
            "echo": Handler(lambda request: request, Wait.NOTHING),
            "missing": Handler(self._missing, Wait.NOTHING),
            "bug": Handler(self._bug, Wait.NOTHING),
            "slow": Handler(self._slow, Wait.MODELS),
            "end": Handler(self._end, Wait.DISK),
        }
        if method not in handlers:
            raise UnimplementedError(f"no {method}")
        return handlers[method]

    def _missing(self, request: bytes) -> bytes:
        raise NotFoundError("nowhere")

    def _bug(self, request: bytes) -> bytes:
        raise ZeroDivisionError("odd")

    def _slow(self, request: bytes) -> bytes:
        assert self.release.wait(10)
        raise ServableError("late")

    def _end(self, request: bytes) -> bytes:
        self.release.set()
        return b"ended"

    def answer(self, *calls: FakeCall) -> None:
        rest = list(calls)

        def next_call(timeout_s: float) -> FakeCall | None:
            if rest:
                return rest.pop(0)
            self.stopped.set()
            return None

        answer_calls(next_call, self.find, self.stopped)


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("echo", b"request"),
        ("missing", ("NOT_FOUND", "nowhere")),
        ("bug", ("INTERNAL", "odd")),
        ("other", ("UNIMPLEMENTED", "no other")),
    ],
)
def test_calls_are_answered(method: str, answer: object) -> None:
    call = FakeCall(method)
    World().answer(call)
    assert call.answer == answer


def test_calls_that_wait_hold_up_no_others_and_are_not_without_number() -> None:
    world = World()
    slow = [FakeCall("slow") for _ in range(MOST_WAITING + 1)]
    quick = FakeCall("echo")
    world.answer(*slow, quick)
    assert quick.answer == b"request"
    assert slow[-1].wait() == (
        "RESOURCE_EXHAUSTED",
        f"{MOST_WAITING} calls wait for models, or requests to them; try again later",
    )
    assert slow[0].answer is None
    world.release.set()
    assert [call.wait() for call in slow[:-1]] == [("UNKNOWN", "late")] * MOST_WAITING


def test_what_ends_their_wait_has_a_place_of_its_own() -> None:
    world = World()
    slow = [FakeCall("slow") for _ in range(MOST_WAITING)]
    end = FakeCall("end")
    world.answer(*slow, end)
    assert end.wait() == b"ended"
    assert [call.wait() for call in slow] == [("UNKNOWN", "late")] * MOST_WAITING
