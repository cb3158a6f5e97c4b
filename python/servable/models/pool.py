"""Threads for loading and unloading."""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol
from weakref import WeakValueDictionary

from servable.config.base_path import local_path, place_of, scheme_of

__all__ = ["Job", "PlacePools", "Pool", "ThreadPool"]

log = logging.getLogger(__name__)

THREADS_PER_BASE_PATH = 2
MOST_LOCAL_THREADS = 32
"""For all base paths on this machine: more of them take turns at the interpreter rather than at the disk."""

Job = Callable[[], None]


class Pool(Protocol):
    """Runs jobs that catch their own errors. Called from the manager's thread."""

    def submit(self, job: Job) -> bool:
        """Take on a job; false if there is no thread for it, now or when another is done: to be submitted again."""


class ThreadPool:
    """Runs each job on a thread of its own, at most `size` at a time.

    Jobs are few and long, so threads are not kept; but one that is done takes what waits, since the system may refuse
    another. They are daemons, because a load that TensorFlow has begun cannot be
    interrupted and must not hold up the end of the process.
    """

    def __init__(self, name: str, size: int) -> None:
        self._name = name
        self._lock = threading.Lock()  # guards what follows
        self._size = size
        self._running = 0
        self._waiting: deque[Job] = deque()

    def submit(self, job: Job) -> bool:
        with self._lock:
            self._waiting.append(job)
            self._start_some()
            is_taken = self._running > 0 or self._size == 0
            if not is_taken:
                self._waiting.pop()
            return is_taken

    def resize(self, size: int) -> None:
        """Jobs that run already are not affected."""
        with self._lock:
            self._size = size
            self._start_some()

    def _start_some(self) -> None:
        while self._waiting and self._running < self._size:
            thread = threading.Thread(target=self._run, args=(self._waiting[0],), name=self._name, daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                log.warning("No further thread for a %s: %s", self._name, error)
                return
            self._waiting.popleft()
            self._running += 1

    def _run(self, job: Job | None) -> None:
        while job is not None:
            try:
                job()
            except BaseException:
                log.exception("A %s failed otherwise than it may; this is a bug", self._name)
            with self._lock:
                self._running -= 1
                job = None
                if self._waiting and self._running < self._size:
                    job = self._waiting.popleft()
                    self._running += 1
                self._start_some()


class _Lane:
    """A part of a pool that gets `size` of its threads at most, so that jobs which hang leave others some."""

    def __init__(self, pool: Pool, size: int) -> None:
        self._pool = pool
        self._size = size
        self._lock = threading.Lock()  # guards what follows
        self._running = 0
        self._waiting: deque[Job] = deque()

    def submit(self, job: Job) -> bool:
        with self._lock:
            if self._running == self._size:
                self._waiting.append(job)
                return True
            self._running += 1
        is_taken = self._pool.submit(partial(self._run, job))
        if not is_taken:
            with self._lock:
                self._running -= 1
        return is_taken

    def _run(self, job: Job) -> None:
        try:
            job()
        finally:
            with self._lock:
                following = self._waiting.popleft() if self._waiting else None
                if following is None:
                    self._running -= 1
            if following is not None:
                self._pool.submit(partial(self._run, following))  # behind those that wait already; this thread is there


class PlacePools:
    """A pool for each store, and a share of one for each base path on this machine: who waits for one place holds up
    no other.

    Called from the manager's thread.
    """

    def __init__(self, name: str, size: int) -> None:
        self._name = name
        self._size = size
        self._stores: dict[tuple[str, str], ThreadPool] = {}
        self._local = ThreadPool(name, MOST_LOCAL_THREADS)
        self._lanes: WeakValueDictionary[str, _Lane] = WeakValueDictionary()
        """Those that have jobs."""

    def __call__(self, path: str) -> Pool:
        folder = local_path(path)
        if folder is not None:
            return self._lanes.setdefault(os.path.dirname(folder), _Lane(self._local, THREADS_PER_BASE_PATH))
        place = scheme_of(path), place_of(path)
        if place not in self._stores:
            self._stores[place] = ThreadPool(self._name, self._size)
        return self._stores[place]
