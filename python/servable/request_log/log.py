"""From the engine's queue to the collectors: each has a thread of its own, so that one that hangs holds up no other."""

from __future__ import annotations

import json
import logging
import math
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from servable.config.model_config import ModelConfig
from servable.errors import InvalidArgumentError, ServableError
from servable.request_log.collector import Collector, import_collectors, make_collector
from servable.types import RequestLogOptions

__all__ = ["RequestLog"]

log = logging.getLogger(__name__)

TEND_S = 1.0
WAIT_S = 0.5
PAUSE_S = 0.02
MOST_WAITING_BYTES = 16 << 20
"""Of records that a collector has not taken yet."""
MOST_WAITING = 65_536
MOST_ON_THEIR_WAY = 4_000_000
"""Records that a collector has taken, and that are not yet where they belong."""


class Engine(Protocol):
    """What the request log needs of `engine.Server`."""

    def log_requests(self, rates: Mapping[str, float]) -> None: ...
    def next_log_records(self, timeout_s: float) -> list[tuple[str, bytes]]: ...
    def count_logged(self, model: str, code: str, records: int) -> None: ...
    def count_log_dropped(self, model: str, reason: str, records: int) -> None: ...


class RequestLog:
    """Owns the loggers. Models with the same configuration share one, which lives as long as somebody has it.

    Imports the collectors that the options register; `InvalidArgumentError` if one cannot be.
    """

    def __init__(self, engine: Engine, options: RequestLogOptions) -> None:
        self._engine = engine
        self._options = options
        self._registered = import_collectors(options.collectors)
        self._loggers: dict[str, _Logger] = {}  # by configuration; replaced as a whole
        self._of_model: dict[str, _Logger] = {}
        self._gone: list[_Logger] = []
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="request-log", daemon=True)

    def prepare(self, models: Sequence[ModelConfig]) -> Callable[[], None]:
        """Check what the models want; what comes back does it. `InvalidArgumentError` if something cannot be."""
        loggers: dict[str, _Logger] = {}
        of_model: dict[str, _Logger] = {}
        rates: dict[str, float] = {}
        for model in models:
            if model.logging is None:
                continue
            rates[model.name] = _rate(model.name, model.logging)
            key = json.dumps(model.logging, sort_keys=True)
            if key not in loggers:
                loggers[key] = self._loggers.get(key) or self._made(model.name, model.logging)
            of_model[model.name] = loggers[key]

        def commit() -> None:
            gone = [logger for key, logger in self._loggers.items() if key not in loggers]
            self._loggers, self._of_model = loggers, of_model
            if of_model and not self._thread.is_alive():
                self._thread.start()
            for logger in loggers.values():
                logger.start()
            self._engine.log_requests(rates)
            self._gone = [logger for logger in self._gone if logger.is_alive()] + gone
            for logger in gone:
                logger.close()

        return commit

    def _made(self, model: str, config: Mapping[str, Any]) -> _Logger:
        collector = config.get("log_collector_config", {})
        kind, prefix = collector.get("type", ""), collector.get("filename_prefix", "")
        made = make_collector(model, kind, prefix, self._options, self._registered)
        return _Logger(f"{kind} {prefix}", made, self._engine)

    def _run(self) -> None:
        while True:
            is_last = self._closing.is_set()  # asked for first: what comes before that is not lost
            records = self._engine.next_log_records(WAIT_S)
            for model, record in records:
                logger = self._of_model.get(model)
                if logger is None or not logger.put(model, record):
                    self._engine.count_log_dropped(model, "collector_slow" if logger else "not_configured", 1)
            if not records and is_last:
                return
            if not records:
                self._closing.wait(PAUSE_S)  # once the server has stopped, nothing else waits here

    def close(self, timeout_s: float) -> None:
        """Write what there is, as far as the time allows. The engine must have stopped."""
        end = time.monotonic() + timeout_s
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        loggers = [*self._loggers.values(), *self._gone]
        for logger in loggers:
            logger.close()
        for logger in loggers:
            if not logger.join(end - time.monotonic()):
                log.warning("The request log %s did not take all its records before the end", logger.name)


def _rate(model: str, config: Mapping[str, Any]) -> float:
    rate = float(config.get("sampling_config", {}).get("sampling_rate", 0.0))
    if math.isnan(rate):
        raise InvalidArgumentError(f"Model {model}: logging_config.sampling_config.sampling_rate is no number")
    return rate


class _Logger:
    """A collector and the thread that feeds it."""

    def __init__(self, name: str, collector: Collector, engine: Engine) -> None:
        self.name = name
        self._collector = collector
        self._engine = engine
        self._changed = threading.Condition()
        self._waiting: list[tuple[str, bytes]] = []
        self._bytes = 0
        self._records = 0
        self._on_their_way: list[str] = []  # models of records that the collector has taken, in order
        self._is_closing = False
        self._failing: set[str] = set()  # what does so
        self._thread = threading.Thread(target=self._run, name="collector", daemon=True)

    def start(self) -> None:
        """Harmless if repeated. The collector is tended from then on."""
        if self._thread.ident is None:
            self._thread.start()

    def put(self, model: str, record: bytes) -> bool:
        """Whether there is room for it."""
        with self._changed:
            is_full = self._records >= MOST_WAITING or self._bytes + len(record) > MOST_WAITING_BYTES
            if self._is_closing or (self._waiting and is_full):
                return False
            self._waiting.append((sys.intern(model), record))
            self._bytes += len(record)
            self._records += 1
            self._changed.notify()
        return True

    def close(self) -> None:
        with self._changed:
            self._is_closing = True
            self._changed.notify()

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def join(self, timeout_s: float) -> bool:
        if self._thread.ident is not None:
            self._thread.join(max(0.0, timeout_s))
        return not self.is_alive()

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._waiting and not self._is_closing:
                    self._changed.wait(TEND_S)
                batch, self._waiting = self._waiting, []
                is_last = self._is_closing
            if batch:
                self._write(batch)
                with self._changed:
                    self._bytes -= sum(len(record) for _, record in batch)
                    self._records -= len(batch)
            code = self._try("tend", self._collector.close if is_last else self._collector.tend)
            self._count_arrived()
            if is_last:
                self._count(self._on_their_way, code if code != "OK" else "UNAVAILABLE")
                return

    def _write(self, batch: Sequence[tuple[str, bytes]]) -> None:
        def write() -> None:
            if len(self._on_their_way) + len(batch) > MOST_ON_THEIR_WAY:
                raise ServableError("too many records are still on their way", code="RESOURCE_EXHAUSTED")
            self._collector.write([record for _, record in batch])

        code = self._try("write", write)
        models = [model for model, _ in batch]
        if code == "OK":
            self._on_their_way += models
            self._count_arrived()
        else:
            self._count(models, code)

    def _count_arrived(self) -> None:
        def count() -> None:
            arrived = max(0, len(self._on_their_way) - self._collector.waiting())
            self._count(self._on_their_way[:arrived], "OK")
            del self._on_their_way[:arrived]

        self._try("waiting", count)

    def _count(self, models: Sequence[str], code: str) -> None:
        for model, count in Counter(models).items():
            self._engine.count_logged(model, code, count)
            if code != "OK":
                self._engine.count_log_dropped(model, "collector_failed", count)

    def _try(self, what: str, act: Callable[[], None]) -> str:
        """Returns the code that it ended with. The first failure of an outage is logged."""
        try:
            act()
        except Exception as error:
            if what not in self._failing:
                log.error("The request log %s fails (%s), records may be lost: %s", self.name, what, error)
            self._failing.add(what)
            return error.code if isinstance(error, ServableError) else "UNKNOWN"
        if what in self._failing:
            log.info("The request log %s works again (%s)", self.name, what)
            self._failing.remove(what)
        return "OK"
