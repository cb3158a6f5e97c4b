"""From the engine's queue to collectors: what is counted as written, and what is lost."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from servable.config.model_config import ModelConfig
from servable.request_log.log import MOST_WAITING, RequestLog
from servable.types import RequestLogOptions

DEADLINE_S = 30.0


class FakeEngine:
    """Has records for whoever asks, and counts what becomes of them."""

    def __init__(self) -> None:
        self.records: list[tuple[str, bytes]] = []
        self.logged: Counter[tuple[str, str]] = Counter()
        self.dropped: Counter[tuple[str, str]] = Counter()

    def log_requests(self, rates: Mapping[str, float]) -> None:
        pass

    def next_log_records(self, timeout_s: float) -> list[tuple[str, bytes]]:
        records, self.records = self.records, []
        return records

    def count_logged(self, model: str, code: str, records: int) -> None:
        self.logged[model, code] += records

    def count_log_dropped(self, model: str, reason: str, records: int) -> None:
        self.dropped[model, reason] += records


class Stuck:
    """A collector that takes nothing until it is told to."""

    go_on = threading.Event()

    def __init__(self, prefix: str, options: RequestLogOptions) -> None:
        pass

    def write(self, records: Sequence[bytes]) -> None:
        assert self.go_on.wait(DEADLINE_S)

    def tend(self) -> None:
        pass

    def waiting(self) -> int:
        return 0

    def close(self) -> None:
        pass


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def logging(engine: FakeEngine, kind: str, prefix: str, options: RequestLogOptions, *models: str) -> RequestLog:
    """A request log for these models, which share a collector."""
    config = {
        "log_collector_config": {"type": kind, "filename_prefix": prefix},
        "sampling_config": {"sampling_rate": 1.0},
    }
    log = RequestLog(engine, options)
    log.prepare([ModelConfig(name=name, base_path="/m", logging=config) for name in models])()
    return log


def test_records_count_as_written_once_the_store_has_them(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("no folder")
    engine = FakeEngine()
    log = logging(
        engine, "fsspec", f"local://{tmp_path}/log/m", RequestLogOptions(f"{tmp_path}/spool", file_bytes=1), "a", "b"
    )
    engine.records = [("a", b"1"), ("b", b"2"), ("a", b"3"), ("a", b"4")]
    wait_until(lambda: not engine.records)
    assert not engine.logged
    (tmp_path / "log").unlink()
    wait_until(lambda: engine.logged.total() == 3)
    assert engine.logged == {("a", "OK"): 2, ("b", "OK"): 1}, "the last file is still being written"
    log.close(DEADLINE_S)
    assert engine.logged == {("a", "OK"): 3, ("b", "OK"): 1}
    assert not engine.dropped


def test_what_the_store_has_not_taken_in_the_end_is_lost(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("no folder")
    engine = FakeEngine()
    log = logging(engine, "fsspec", f"local://{tmp_path}/log/m", RequestLogOptions(f"{tmp_path}/spool"), "a")
    engine.records = [("a", b"1"), ("a", b"2")]
    wait_until(lambda: not engine.records)
    log.close(DEADLINE_S)
    assert engine.logged == {("a", "UNKNOWN"): 2}
    assert engine.dropped == {("a", "collector_failed"): 2}


def test_a_slow_collector_costs_records_beyond_a_number() -> None:
    engine = FakeEngine()
    options = RequestLogOptions("/not used", collectors={"stuck": f"{__name__}:Stuck"})
    log = logging(engine, "stuck", "any", options, "a")
    engine.records = [("a", b"")] * (MOST_WAITING + 10)
    wait_until(lambda: engine.dropped.total() == 10)
    assert engine.dropped == {("a", "collector_slow"): 10}
    Stuck.go_on.set()
    wait_until(lambda: engine.logged == {("a", "OK"): MOST_WAITING})
    engine.records = [("a", b"")]
    log.close(DEADLINE_S)
    assert engine.logged == {("a", "OK"): MOST_WAITING + 1}
