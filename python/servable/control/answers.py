"""Takes the calls that the engine leaves to the control plane, and answers them."""

from __future__ import annotations

import contextlib
import enum
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from servable.errors import InternalError, ServableError

__all__ = ["Call", "Handler", "Wait", "answer_calls"]

log = logging.getLogger(__name__)

CALL_WAIT_S = 1.0
MOST_WAITING = 32
"""Calls at work of each kind that may wait, each on a thread of its own."""


class Call(Protocol):
    """`engine.ControlCall`, or a fake in tests."""

    @property
    def method(self) -> str: ...
    @property
    def request(self) -> bytes: ...
    def reply(self, response: bytes) -> None: ...
    def fail(self, code: str, message: str) -> None: ...


class Wait(enum.Enum):
    """What a call may have to wait for."""

    NOTHING = "nothing"
    """It is answered on the thread that takes the calls."""
    DISK = "files, and changes before it"
    MODELS = "models, or requests to them"
    """It may take for ever, and must not keep those from their place that end the wait: removing a model is one."""


@dataclass(frozen=True)
class Handler:
    """What answers a call. Called from any thread; `ServableError` for what cannot be done."""

    answer: Callable[[bytes], bytes]
    waits_for: Wait


def answer_calls(
    next_call: Callable[[float], Call | None], find: Callable[[str], Handler], stopped: threading.Event
) -> None:
    """Answer one call after the other until `stopped`; those that may wait do so side by side.

    `find` gives the handler for a method, or raises a `ServableError`.
    """
    rooms = {wait: threading.Semaphore(MOST_WAITING) for wait in (Wait.DISK, Wait.MODELS)}
    while not stopped.is_set():
        call = next_call(CALL_WAIT_S)
        if call is None:
            continue
        with _failing(call):
            handler = find(call.method)
            room = rooms.get(handler.waits_for)
            if room is None:
                call.reply(handler.answer(call.request))
            elif room.acquire(blocking=False):
                try:
                    threading.Thread(target=_answer, args=(call, handler, room), name="control", daemon=True).start()
                except RuntimeError:  # there is no thread to be had
                    room.release()
                    raise
            else:
                raise ServableError(
                    f"{MOST_WAITING} calls wait for {handler.waits_for.value}; try again later",
                    code="RESOURCE_EXHAUSTED",
                )


def _answer(call: Call, handler: Handler, room: threading.Semaphore) -> None:
    try:
        with _failing(call):
            call.reply(handler.answer(call.request))
    finally:
        room.release()


@contextlib.contextmanager
def _failing(call: Call) -> Iterator[None]:
    """Let an error be the answer to the call."""
    try:
        yield
    except ServableError as error:
        call.fail(error.code, error.message)
    except Exception as error:
        log.exception("%s failed; this is a bug", call.method)
        call.fail(InternalError.code, str(error))
