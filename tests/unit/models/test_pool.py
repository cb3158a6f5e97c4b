from __future__ import annotations

import queue
import threading

import pytest
from servable.models.pool import MOST_LOCAL_THREADS, THREADS_PER_BASE_PATH, PlacePools, ThreadPool


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


def test_a_store_that_is_slow_holds_up_no_other_place() -> None:
    pools = PlacePools("test", 1)
    gate, done = threading.Event(), threading.Semaphore(0)

    def wait() -> None:
        gate.wait(10)

    pools("s3://slow/m/1").submit(wait)
    for path in ("s3://slow/n/1", "s3://quick/m/1", "/m/1", "file:///n/1"):
        pools(path).submit(done.release)
    for _ in range(3):
        assert done.acquire(timeout=10)
    assert not done.acquire(blocking=False)
    gate.set()
    assert done.acquire(timeout=10)


def test_a_base_path_that_hangs_holds_up_no_other_on_this_machine() -> None:
    pools = PlacePools("test", 8)
    gate, started, done = threading.Event(), threading.Semaphore(0), threading.Semaphore(0)

    def hang() -> None:
        started.release()
        gate.wait(10)
        done.release()

    for version in range(100):
        assert pools(f"/hangs/{version}").submit(hang)
    for _ in range(THREADS_PER_BASE_PATH):
        assert started.acquire(timeout=10)
    for number in range(100):
        assert pools(f"/m{number}/1").submit(done.release)
    for _ in range(100):
        assert done.acquire(timeout=10)
    assert not started.acquire(blocking=False)
    gate.set()
    for _ in range(100):
        assert done.acquire(timeout=10)


def test_base_paths_share_a_number_of_threads() -> None:
    pools = PlacePools("test", 8)
    gate, started = threading.Event(), threading.Semaphore(0)

    def hang() -> None:
        started.release()
        gate.wait(10)

    for number in range(MOST_LOCAL_THREADS + 10):
        assert pools(f"/m{number}/1").submit(hang)
    for _ in range(MOST_LOCAL_THREADS):
        assert started.acquire(timeout=10)
    assert sum(thread.name == "test" for thread in threading.enumerate()) == MOST_LOCAL_THREADS
    gate.set()
    for _ in range(10):
        assert started.acquire(timeout=10)


def test_a_job_of_a_base_path_that_gets_no_thread_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    pools = PlacePools("test", 8)
    done = threading.Semaphore(0)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        for _ in range(THREADS_PER_BASE_PATH + 1):
            assert not pools("/m/1").submit(done.release)
    assert pools("/m/1").submit(done.release)
    assert done.acquire(timeout=10)


def test_a_job_that_gets_no_thread_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = ThreadPool("test", 1)
    done = threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert not pool.submit(done.set)
    assert pool.submit(done.set)
    assert done.wait(10)


def test_jobs_that_get_no_thread_follow_those_that_have_one(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = ThreadPool("test", 4)
    gate, done = threading.Event(), threading.Semaphore(0)

    def wait() -> None:
        gate.wait(10)

    assert pool.submit(wait)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    for _ in range(3):
        assert pool.submit(done.release)
    gate.set()
    for _ in range(3):
        assert done.acquire(timeout=10)


def refuse(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")
