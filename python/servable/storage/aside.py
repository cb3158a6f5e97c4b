"""Questions that may hang: asked one after the other on a thread aside, which is left behind by the one that does.

A call to a mount whose server is gone may never return, and cannot be interrupted.
"""

from __future__ import annotations

import os
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

ROUND_S = 60.0
"""How long all questions together may take. What is left over comes first in the next round."""

MOST_LEFT_BEHIND = 64
"""Threads that hang. The last half of them is for keys that have no neighbour which hangs."""


class Aside(Generic[T]):
    """Asks about keys, which are paths. One that hangs is not asked about again before it has returned, and holds up
    no other, but for its neighbours when many hang.

    `ask_all` is called by one thread at a time.
    """

    def __init__(self, ask: Callable[[str], T], *, patience_s: float = PATIENCE_S, round_s: float = ROUND_S) -> None:
        self._ask = ask
        self._patience_s = patience_s
        self._round_s = round_s
        self._left: Mapping[str, Exception] = {}
        """What was not asked about in the last round."""
        self._lock = threading.Lock()  # guards what follows, and who has the last word on a question
        self._hanging: set[str] = set()

    def ask_all(self, keys: Sequence[str]) -> Mapping[str, T | Exception]:
        """What `ask` returns or raises for each key; `TimeoutError` for those that hang, or are not asked about."""
        answers: dict[str, T | Exception] = {}
        patience_s, end_s = self._patience_s, time.monotonic() + self._round_s
        with self._lock:
            hanging = self._hanging.intersection(keys)
        rest = sorted(dict.fromkeys(key for key in keys if key not in hanging), key=lambda key: key not in self._left)
        reason = ""
        while rest and not reason:
            turn: _Turn[T] = _Turn(self._allowed(rest))
            reason = self._start(turn) if turn.keys else "too many others do not answer"
            while not reason and not turn.is_done.wait(min(turn.began_s + patience_s, end_s) - time.monotonic()):
                if self._give_up(turn, patience_s, end_s):
                    hanging.add(turn.keys[len(turn.answers)])
                    patience_s = max(patience_s / 10, LEAST_PATIENCE_S)
                    reason = "others took too long" if time.monotonic() >= end_s else ""
                    break
            answers |= turn.answers
            rest = [key for key in rest if key not in answers and key not in hanging]
        self._left = {key: TimeoutError(reason) for key in rest}
        return answers | {key: TimeoutError("it does not answer") for key in hanging} | self._left

    def _allowed(self, keys: Sequence[str]) -> Sequence[str]:
        """Those to ask about, neighbours of what hangs last."""
        with self._lock:
            count, folders = len(self._hanging), {os.path.dirname(key) for key in self._hanging}
        lonely = [key for key in keys if os.path.dirname(key) not in folders]
        neighbours = [key for key in keys if os.path.dirname(key) in folders]
        if count >= MOST_LEFT_BEHIND:
            return []
        return lonely if count >= MOST_LEFT_BEHIND // 2 else [*lonely, *neighbours]

    def _start(self, turn: _Turn[T]) -> str:
        """Why it could not be started; empty if it was."""
        try:
            threading.Thread(target=self._work, args=(turn,), name="look", daemon=True).start()
        except RuntimeError:  # the system has none left
            return "there is no thread to ask it"
        return ""

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

    def _give_up(self, turn: _Turn[T], patience_s: float, end_s: float) -> bool:
        """Leave the thread behind if its question hangs."""
        with self._lock:
            is_last = len(turn.answers) == len(turn.keys)
            if is_last or time.monotonic() < min(turn.began_s + patience_s, end_s):
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
