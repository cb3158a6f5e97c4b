"""Questions that may hang: asked one after the other on a thread aside, which is left behind by the one that does.

A call to a mount whose server is gone may never return, and cannot be interrupted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

__all__ = ["Aside"]

T = TypeVar("T")

PATIENCE_S = 12.0
"""How long one question may take: longer than a store has for its first answer (`storage/answers.py`)."""

LEAST_PATIENCE_S = 0.05
"""Each question that hangs leaves a tenth of the patience to the next ones: they often hang together."""


class Aside(Generic[T]):
    """Asks about keys. One that hangs is not asked about again before it has returned, and holds up no other.

    `ask_all` is called by one thread at a time.
    """

    def __init__(self, ask: Callable[[str], T], *, patience_s: float = PATIENCE_S) -> None:
        self._ask = ask
        self._patience_s = patience_s
        self._lock = threading.Lock()  # guards what follows, and who has the last word on a question
        self._hanging: set[str] = set()

    def ask_all(self, keys: Sequence[str]) -> Mapping[str, T | Exception]:
        """What `ask` returns or raises for each key; `TimeoutError` for those that hang."""
        answers: dict[str, T | Exception] = {}
        patience_s = self._patience_s
        with self._lock:
            hanging = self._hanging.intersection(keys)
        rest = [key for key in dict.fromkeys(keys) if key not in hanging]
        while rest:
            turn: _Turn[T] = _Turn(rest)
            self._start(turn)
            while not turn.is_done.wait(turn.began_s + patience_s - time.monotonic()):
                if self._give_up(turn, patience_s):
                    break
            answers |= turn.answers
            if turn.is_given_up:
                hanging.add(rest[len(turn.answers)])
                patience_s = max(patience_s / 10, LEAST_PATIENCE_S)
            rest = [key for key in rest if key not in answers and key not in hanging]
        return answers | {key: TimeoutError("it does not answer") for key in hanging}

    def _start(self, turn: _Turn[T]) -> None:
        try:
            threading.Thread(target=self._work, args=(turn,), name="look", daemon=True).start()
        except RuntimeError:  # the system has no thread left; mostly nothing hangs
            self._work(turn)

    def _work(self, turn: _Turn[T]) -> None:
        for key in turn.keys:
            answer: T | Exception
            try:
                answer = self._ask(key)
            except Exception as error:
                answer = error
            with self._lock:
                if turn.is_given_up:
                    self._hanging.discard(key)
                    return
                turn.answers[key] = answer
                turn.began_s = time.monotonic()
        turn.is_done.set()

    def _give_up(self, turn: _Turn[T], patience_s: float) -> bool:
        """Leave the thread behind if its question hangs."""
        with self._lock:
            is_last = len(turn.answers) == len(turn.keys)
            if is_last or time.monotonic() < turn.began_s + patience_s:
                return False
            turn.is_given_up = True
            self._hanging.add(turn.keys[len(turn.answers)])
            return True


class _Turn(Generic[T]):
    """What one thread asks."""

    def __init__(self, keys: Sequence[str]) -> None:
        self.keys = tuple(keys)
        self.answers: dict[str, T | Exception] = {}
        self.began_s = time.monotonic()
        """When the question was asked that has no answer yet."""
        self.is_given_up = False
        self.is_done = threading.Event()
