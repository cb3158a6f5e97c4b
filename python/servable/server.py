"""One run of the server, from configuration to exit: puts the parts together and holds no decisions of its own."""

from __future__ import annotations

import functools
import logging
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any

from servable import engine
from servable.config.access import read_access
from servable.config.limits import fitted
from servable.config.platform_config import PlatformOptions
from servable.config.server_config import Config, Files, read_files, read_models
from servable.config.tls import read_tls
from servable.control.answers import answer_calls
from servable.control.calls import find_handler
from servable.control.keeping import Kept, keep_reading
from servable.control.profiling import Profiling
from servable.errors import MalformedFileError, ServableError
from servable.logs import say
from servable.models.loader import Prepared
from servable.models.manager import Keeping, Manager, Outside, Pools, Retries
from servable.models.memory import Memory, available_ram, ram_limit
from servable.models.mender import Mender
from servable.models.overlay import Origin
from servable.models.pool import PlacePools, ThreadPool
from servable.models.reload import Look, Reloader, Started, unavailable, watch_config_file
from servable.models.source import Aspired, FileSystemSource
from servable.models.state_file import StateFile
from servable.platforms.base import Platforms, PlatformSettings
from servable.platforms.profiler import open_profiler
from servable.platforms.tensorflow import find_package
from servable.request_log.log import RequestLog
from servable.storage.stores import Stores
from servable.types import ServerSpec, WarmupOptions

__all__ = ["Ports", "run"]

log = logging.getLogger(__name__)

FETCH_THREADS = 8
"""Versions whose files are brought at a time from one store."""
UNLOAD_TIMEOUT_S = 2.0
STOP_CHECK_S = 0.05
LAST_ANSWERS_S = 1.0
"""For what the early ports were asked, when a stop comes before the start is done."""
LAST_RECORDS_S = 1.0
MOST_LAST_RECORDS_S = 10.0
"""For the request log, within the time of the drain; what a store does not take by then is lost."""

FAILED = 255


@dataclass(frozen=True)
class Ports:
    """Where the server can be reached."""

    grpc: int | None
    rest: int | None
    admin: int | None
    monitoring: int | None


def run(config: Config, on_ready: Callable[[Ports], None] = lambda ports: None) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit code; must be called on the main thread.

    `on_ready` is called once, when the ports are open.
    """
    for text in config.errors:
        log.error(text)
    for text in config.notes:
        log.warning(text)
    stopping = _Stopping(rereads=config.models.config_file is not None)
    try:
        return _serve(config, stopping, on_ready)
    except (ServableError, engine.EngineError) as error:
        if isinstance(error, MalformedFileError):
            log.error(error.detail)
        say(f"Failed to start server. Error: {error.code}: {error.message}", logging.ERROR)
        return FAILED
    finally:
        stopping.tell()


def _serve(config: Config, stopping: _Stopping, on_ready: Callable[[Ports], None]) -> int:
    files = read_files(config, engine)
    for text in files.notes:
        log.warning(text)
    limits, text = fitted(config.server.limits, ram_limit(_read))
    if text:
        log.info(text)
    server = _server(
        replace(
            config.server, limits=limits, metrics_path=files.metrics_path, metrics_unasked=not config.monitoring_file
        )
    )
    secrets = _secrets(config, server)
    for kept in secrets:
        kept.start()
    server.open()
    if secrets and config.security_period_s:  # the early ports go by them, however long the first models take
        keep = functools.partial(keep_reading, secrets, config.security_period_s, stopping.event)
        _start_thread("secrets", keep)
    _announce_early(server, config)
    loads = ThreadPool("load", min(4 * (os.cpu_count() or 1), 8))
    stores = Stores(config.storage)
    manager = _manager(config, files, server, stores, loads)
    source = FileSystemSource(
        manager.aspire,
        folders=stores.folders,
        enabled=config.models.scan,
        keep_last=config.models.versions_always_present,
    )
    request_log = RequestLog(server, config.request_log)
    reloader = Reloader(
        manager=manager,
        source=source,
        platforms=files.platforms,
        check_base_path=stores.check,
        labels=config.models.labels,
        root=config.models.root,
        state=StateFile(config.models.state_file, engine) if config.models.state_file else None,
        prepare_log=request_log.prepare,
    )
    _start_thread("models", manager.run)

    started = reloader.start(
        files.models,
        Origin.CONFIG_FILE if config.models.config_file else Origin.FLAGS,
        patient=not config.models.fail_without_versions,
    )
    if config.models.scan and config.models.scan_period_s:
        mender = Mender(lambda: manager.failed, stores.stamp, manager.retry)
        looks = (source.scan, mender.look)
        _start_thread("scan", functools.partial(_keep_looking, looks, config.models.scan_period_s, stopping.event))
    if config.loading.release_period_s:
        release = functools.partial(_keep_releasing, config.loading.release_period_s, stopping.event)
        _start_thread("memory", release)
    # From here on, so that the list of the start is the first one.
    profiling = Profiling(functools.partial(open_profiler, find_package), engine, stopping.event)
    find = find_handler(reloader, lambda: manager.routes, manager.ask_for, server, engine, profiling)
    _start_thread("control", functools.partial(answer_calls, server.next_call, find, stopping.event))
    if config.models.config_file:
        read = functools.partial(read_models, config.models.config_file, engine)
        next_look = functools.partial(stopping.next_look, config.models.config_file_period_s)
        _start_thread("config", functools.partial(watch_config_file, read, reloader, next_look))
    if not _has_started(started, config.models.start_timeout_s, stopping):
        log.info("Stopping before the first models are available")
        stopping.tell()
        _wait_for("drain", functools.partial(server.stop, LAST_ANSWERS_S))
        return 0
    loads.resize(config.loading.load_threads)

    server.start()
    ports = _announce(server, config)
    on_ready(ports)

    stopping.wait()
    server.leave()
    if config.drain_grace_s:
        log.info("Not ready any more; requests are still accepted for %s s", config.drain_grace_s)
        time.sleep(config.drain_grace_s)
    stopping.tell()
    log.info("Stopping: requests in flight have %s s to finish", config.drain_timeout_s)
    _wait_for("drain", functools.partial(_drain, server, manager, request_log, config.drain_timeout_s))
    return 0


def _server(spec: ServerSpec) -> engine.Server:
    """Without traces if these are what cannot be: the environment that asks for them may be meant for others."""
    try:
        return engine.Server(spec)
    except engine.EngineError as error:
        if spec.traces is None:
            raise
        server = engine.Server(replace(spec, traces=None))
        log.error("There are no traces: %s", error.message)
        return server


def _secrets(config: Config, server: engine.Server) -> Sequence[Kept[Any]]:
    """Files about who may connect and do what, which are read again when they change."""
    secrets: list[Kept[Any]] = []
    if config.tls.is_on:
        import ssl

        roots = ssl.get_default_verify_paths().cafile
        secrets.append(Kept("TLS", lambda: read_tls(config.tls, engine, roots), server.set_tls, engine.EngineError))
    if config.access_file:
        path = config.access_file
        secrets.append(Kept("Access", lambda: read_access(path, engine), server.set_access, engine.EngineError))
    return secrets


def _manager(config: Config, files: Files, server: engine.Server, stores: Stores, loads: ThreadPool) -> Manager:
    platforms = Platforms(
        {
            name: PlatformSettings(
                platform.session,
                config.loading.op_libraries,
                _warmup(config.warmup, platform.options),
                server.count_warmup,
                platform.batching,
            )
            for name, platform in files.platforms.items()
        }
    )

    def prepare(name: str, aspired: Aspired) -> Prepared:
        platform = platforms.get(aspired.platform)
        capacity = platform.capacity()  # first: whoever cannot run a version need not bring it
        brought = stores.bring(aspired.path)
        try:
            loader = platform.loader(name, aspired.version, brought.folder, aspired.batching)
            return Prepared(loader, platform.memory(brought.size_bytes), capacity, brought.release)
        except BaseException:
            brought.release()
            raise

    def free() -> Mapping[str, int]:
        ram = available_ram(_read) if config.loading.check_available_memory else None
        return {} if ram is None else {"ram": ram}

    limit = config.loading.memory_limit_bytes
    return Manager(
        Outside(prepare=prepare, publish=server.publish, stamp=stores.stamp),
        Pools(
            fetches=PlacePools("fetch", FETCH_THREADS),
            loads=loads,
            unloads=ThreadPool("unload", config.loading.unload_threads),
        ),
        retries=Retries(config.loading.retries, config.loading.retry_interval_s),
        memory=Memory({} if limit is None else {"ram": limit}, free),
        usual=Keeping(transition=config.loading.transition, lazy=config.loading.lazy),
    )


def _warmup(flags: WarmupOptions, platform: PlatformOptions | None) -> WarmupOptions:
    """What a platform file says of warm-up, if there is one: it knows nothing of requests that are made."""
    if platform is None:
        return flags
    return WarmupOptions(
        enabled=platform.warmup,
        iterations=platform.warmup_iterations,
        check_method_names=flags.check_method_names,
        threads=platform.warmup_threads,
    )


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def _keep_looking(looks: Sequence[Callable[[], None]], period_s: float, stopped: threading.Event) -> None:
    """Take a look once per period until `stopped`."""
    while not stopped.wait(period_s):
        for look in looks:
            try:
                look()
            except Exception:
                log.exception("Looking for versions failed; the next look is in %s s", period_s)


def _keep_releasing(period_s: float, stopped: threading.Event) -> None:
    """Give free memory back once per period until `stopped`: the allocator keeps what threads have needed once."""
    while not stopped.wait(period_s):
        engine.release_memory()


def _has_started(started: Started, timeout_s: float | None, stopping: _Stopping) -> bool:
    """Wait for the first models; false if a stop is asked for. Those added at run time may fail, the others may not."""
    end = None if timeout_s is None else time.monotonic() + timeout_s
    for resolution in (started.configured, started.restored):
        while not resolution.wait(STOP_CHECK_S) and (end is None or time.monotonic() < end):
            if stopping.wait(0):
                return False
        if resolution is started.configured and resolution.failures:
            raise unavailable("servable(s)", resolution.failures)
        if resolution is started.configured and not resolution.wait(0):
            names = ", ".join(resolution.names)
            raise ServableError(
                f"Not all of the first models became available within {timeout_s} s: {names}", code="DEADLINE_EXCEEDED"
            )
    if not started.restored.wait(0):
        log.error("Not all models that were added through the admin port became available within %s s", timeout_s)
    for failure in started.restored.failures:
        log.error("A model that was added through the admin port did not become available: %s", failure)
    return True


def _announce_early(server: engine.Server, config: Config) -> None:
    if server.monitoring_port is not None:
        host, _, _ = (config.server.monitoring_address or "").rpartition(":")
        log.info("Health and metrics over REST and gRPC at %s:%s ...", host, server.monitoring_port)
    if server.admin_port is not None:
        host, _, _ = (config.server.admin_address or "").rpartition(":")
        log.info("Administration over REST and gRPC at %s:%s ...", host, server.admin_port)


def _announce(server: engine.Server, config: Config) -> Ports:
    """Say that the main ports are open, in the words that people's scripts look for."""
    ports = Ports(server.grpc_port, server.rest_port, server.admin_port, server.monitoring_port)
    if ports.grpc is not None:
        host, _, _ = (config.server.grpc_address or "").rpartition(":")
        log.info("Running gRPC ModelServer at %s:%s ...", host, ports.grpc)
    if config.server.grpc_socket_path is not None:
        log.info("Running gRPC ModelServer at UNIX socket %s ...", config.server.grpc_socket_path)
    if ports.rest is not None:
        log.info("Exporting HTTP/REST API at:localhost:%s ...", ports.rest)
    return ports


def _drain(server: engine.Server, manager: Manager, request_log: RequestLog, timeout_s: float) -> None:
    end = time.monotonic() + timeout_s
    has_drained = server.stop(timeout_s)
    request_log.close(min(max(end - time.monotonic(), LAST_RECORDS_S), MOST_LAST_RECORDS_S))
    if not has_drained:
        # What they still run holds its model, so unloading would wait; the end of the process does not.
        log.warning("Requests were still running after %s s; they were cut off", timeout_s)
        return
    if not manager.close().wait(UNLOAD_TIMEOUT_S):
        log.warning("Some models were not unloaded within %s s", UNLOAD_TIMEOUT_S)


def _wait_for(name: str, target: Callable[[], object]) -> None:
    """Do it on another thread: only while the main thread runs Python can a second signal end the process at once."""
    thread = _start_thread(name, target)
    while thread.is_alive():
        thread.join(STOP_CHECK_S)


def _start_thread(name: str, target: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=target, name=name, daemon=True)
    thread.start()
    return thread


class _Stopping:
    """The first SIGTERM or SIGINT asks for an orderly stop, the second one ends the process; SIGHUP, if it `rereads`,
    asks for another look at the configuration file. Handlers are installed for all of them: the first process of a
    container gets no signal that it has no handler for.

    The interpreter writes a byte for every signal, which ends a `wait` whenever it comes. A wait for a lock would miss
    a signal that arrives just before it; and a handler must not take a lock that the thread it interrupts may hold.
    """

    def __init__(self, *, rereads: bool) -> None:
        self.event = threading.Event()
        """Set when nothing new is to be begun, for all threads but the main one."""
        self._look = threading.Event()
        self._is_asked = False
        self._signals, self._sender = socket.socketpair()
        self._sender.setblocking(False)
        signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)
        if rereads:
            signal.signal(signal.SIGHUP, lambda number, frame: None)  # `wait` sees it

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait on the main thread until a stop is asked for."""
        while not self._is_asked:
            if not select.select([self._signals], [], [], timeout_s)[0]:
                return False
            if signal.SIGHUP in self._signals.recv(64):
                log.info("SIGHUP: the model configuration file is read again")
                self._look.set()
        return True

    def tell(self) -> None:
        """Let everybody else know that the server stops."""
        self.event.set()
        self._look.set()

    def next_look(self, period_s: float | None) -> Look:
        """Wait until it is time for another look at the configuration file, on the one thread that takes it."""
        is_asked = self._look.wait(period_s)
        self._look.clear()
        if self.event.is_set():
            return Look.NONE
        return Look.ASKED if is_asked else Look.PERIODIC

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._is_asked:
            os._exit(128 + number)
        self._is_asked = True
