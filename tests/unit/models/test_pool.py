from __future__ import annotations

import queue
import threading

from servable.models.pool import ThreadPool


def test_no_more_jobs_run_at_a_time_than_allowed() -> None:
    pool = ThreadPool("test", 1)
    started: queue.Queue[int] = queue.Queue()
    gates = [threading.Event(), threading.Event()]

    def job(number: int) -> None:
        started.put(number)
        gates[number].wait(10)

    pool.submit(lambda: job(0))
    pool.submit(lambda: job(1))
    assert started.get(timeout=10) == 0
    assert started.empty()
    gates[0].set()
    assert started.get(timeout=10) == 1
    gates[1].set()


def test_a_larger_pool_starts_what_waits() -> None:
    pool = ThreadPool("test", 0)
    done = threading.Event()
    pool.submit(done.set)
    assert not done.is_set()
    pool.resize(1)
    assert done.wait(10)
