"""Threads for loading and unloading."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

__all__ = ["Job", "Pool", "ThreadPool"]

Job = Callable[[], None]


class Pool(Protocol):
    """Runs jobs that catch their own errors. Called from the manager's thread."""

    def submit(self, job: Job) -> None: ...


class ThreadPool:
    """Runs each job on a thread of its own, at most `size` at a time.

    Jobs are few and long, so threads are not kept. They are daemons, because a load that TensorFlow has begun cannot be
    interrupted and must not hold up the end of the process.
    """

    def __init__(self, name: str, size: int) -> None:
        self._name = name
        self._lock = threading.Lock()  # guards what follows
        self._size = size
        self._running = 0
        self._waiting: deque[Job] = deque()

    def submit(self, job: Job) -> None:
        with self._lock:
            self._waiting.append(job)
            self._start_some()

    def resize(self, size: int) -> None:
        """Jobs that run already are not affected."""
        with self._lock:
            self._size = size
            self._start_some()

    def _start_some(self) -> None:
        while self._waiting and self._running < self._size:
            self._running += 1
            threading.Thread(target=self._run, args=(self._waiting.popleft(),), name=self._name, daemon=True).start()

    def _run(self, job: Job) -> None:
        try:
            job()
        finally:
            with self._lock:
                self._running -= 1
                self._start_some()
