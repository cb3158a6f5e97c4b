"""Questions to a slow store: asked on threads aside, answered at once with what was learnt last."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

__all__ = ["Answers"]

log = logging.getLogger(__name__)

T = TypeVar("T")

PATIENCE_S = 10.0
"""How long the first question waits for its answer: a store that is well answers within a second or two."""

FAILED_PERIOD_S = 5.0
"""A question that failed is asked again this soon, if not sooner."""

MAX_THREADS = 4

FORGOTTEN_AFTER_S = 3600.0


@dataclass
class _Question(Generic[T]):
    """What is known about one key. Times are those of a monotonic clock."""

    asked_s: float
    """When somebody wanted to know last."""
    sent_s: float | None = None
    """When it was put to the store; `None` if it is not being asked."""
    answered_s: float | None = None
    answer: T | None = None
    error: Exception | None = None
    arrived: threading.Event = field(default_factory=threading.Event)


class Answers(Generic[T]):
    """What `ask` says about keys, asked again at most once per `period_s`, while somebody wants to know.

    `get` waits only for the first answer about a key, or if nobody has wanted to know for long; and even then not while
    the store hangs or fails for others: a scan asks about one model after the other, and a store that is gone must not
    take its time for each of them.
    """

    def __init__(
        self,
        ask: Callable[[str], T],
        period_s: float,
        *,
        is_fault: Callable[[Exception], bool] = lambda error: True,
        patience_s: float = PATIENCE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._period_s = period_s
        self._is_fault = is_fault
        self._patience_s = patience_s
        self._clock = clock
        self._lock = threading.Lock()  # guards what follows
        self._questions: dict[str, _Question[T]] = {}
        self._waiting: deque[str] = deque()
        self._threads = 0
        self._failed_s: float | None = None
        """When the store itself failed, if that is the last that was heard of it."""

    def get(self, key: str) -> T:
        """The answer that came last. Raises what `ask` raised, or `TimeoutError` if there is none yet."""
        with self._lock:
            now = self._clock()
            question = self._questions.get(key)
            if question is None:
                self._forget(now)
                question = self._questions[key] = _Question(now)
            is_new = question.answered_s is None and question.sent_s is None
            is_old = question.answered_s is not None and now - question.asked_s > self._period_s + self._patience_s
            question.asked_s = now
            self._send_if_due(key, question, now)
            wait_s = self._patience_left_s(now) if (is_new or is_old) and question.sent_s is not None else 0.0
        if wait_s > 0:
            question.arrived.wait(wait_s)
        with self._lock:
            if question.error is not None:
                raise question.error.with_traceback(None)  # it would grow with every raise
            if question.answered_s is None:
                raise TimeoutError(f"{key}: no answer yet")
            return question.answer  # type: ignore[return-value]  # it is there once answered

    def latest(self, key: str) -> T | None:
        """The answer that came last, whatever was raised since."""
        with self._lock:
            question = self._questions.get(key)
            return None if question is None else question.answer

    def _patience_left_s(self, now: float) -> float:
        """How long an answer is worth waiting for."""
        if self._failed_s is not None and now - self._failed_s < self._patience_s:
            return 0.0
        oldest = min(question.sent_s for question in self._questions.values() if question.sent_s is not None)
        return max(0.0, oldest + self._patience_s - now)

    def _send_if_due(self, key: str, question: _Question[T], now: float) -> None:
        period_s = self._period_s if question.error is None else min(self._period_s, FAILED_PERIOD_S)
        is_due = question.answered_s is None or now - question.answered_s >= period_s
        if question.sent_s is None and is_due:
            if not self._has_thread():
                return  # the next who wants to know tries again
            question.sent_s = now
            question.arrived.clear()
            self._waiting.append(key)

    def _has_thread(self) -> bool:
        """Whether there is a thread that puts questions to the store; starts one more if there may be more."""
        if self._threads < MAX_THREADS:
            try:
                threading.Thread(target=self._work, name="list", daemon=True).start()
                self._threads += 1
            except RuntimeError as error:
                log.warning("No further thread to ask a store: %s", error)
        return self._threads > 0

    def _work(self) -> None:
        """Put questions to the store until none is left."""
        while True:
            with self._lock:
                if not self._waiting:
                    self._threads -= 1
                    return
                key = self._waiting.popleft()
            answer: T | None = None
            error: Exception | None = None
            try:
                answer = self._ask(key)
            except Exception as failure:
                error = failure
            with self._lock:
                question = self._questions[key]
                question.error = error
                question.answer = question.answer if error is not None else answer
                question.answered_s, question.sent_s = self._clock(), None
                is_fault = error is not None and self._is_fault(error)
                self._failed_s = question.answered_s if is_fault else None
                question.arrived.set()

    def _forget(self, now: float) -> None:
        """Drop what nobody wants to know any more."""
        self._questions = {
            key: question
            for key, question in self._questions.items()
            if question.sent_s is not None or now - question.asked_s < FORGOTTEN_AFTER_S
        }
