"""One run of the server, from configuration to exit: puts the parts together and holds no decisions of its own."""

from __future__ import annotations

import functools
import logging
import os
import select
import signal
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import FrameType

from servable import engine
from servable.config.server_config import Config, Files, read_files, read_models
from servable.errors import InternalError, MalformedFileError, ServableError
from servable.models.loader import Loader
from servable.models.manager import Manager, Retries
from servable.models.pool import ThreadPool
from servable.models.reload import Reloader, answer_reload, unavailable, watch_config_file
from servable.models.source import Aspired, FileSystemSource
from servable.platforms.base import PLATFORMS, Platforms, PlatformSettings
from servable.storage.stores import Stores

__all__ = ["Ports", "run"]

log = logging.getLogger(__name__)

CALL_WAIT_S = 1.0
UNLOAD_TIMEOUT_S = 2.0
STOP_CHECK_S = 0.05

FAILED = 255


@dataclass(frozen=True)
class Ports:
    """Where the server can be reached."""

    grpc: int | None
    rest: int | None


def run(config: Config, on_ready: Callable[[Ports], None] = lambda ports: None) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit code; must be called on the main thread.

    `on_ready` is called once, when the ports are open.
    """
    for text in config.errors:
        log.error(text)
    for text in config.notes:
        log.warning(text)
    stopping = _Stopping()
    try:
        return _serve(config, stopping, on_ready)
    except (ServableError, engine.EngineError) as error:
        if isinstance(error, MalformedFileError):
            log.error(error.detail)
        print(f"Failed to start server. Error: {error.code}: {error.message}", flush=True)
        return FAILED


def _serve(config: Config, stopping: _Stopping, on_ready: Callable[[Ports], None]) -> int:
    files = read_files(config, engine)
    server = engine.Server(replace(config.server, metrics_path=files.metrics_path))
    loads = ThreadPool("load", min(4 * (os.cpu_count() or 1), 8))
    manager = _manager(config, files, server, loads)
    stores = Stores(config.storage)
    source = FileSystemSource(manager.aspire, folders=stores.folders, enabled=config.models.scan)
    reloader = Reloader(
        manager=manager,
        source=source,
        platforms=PLATFORMS,
        check_base_path=stores.check,
        allow_unavailable_labels=config.models.allow_labels_for_unavailable,
    )
    _start_thread("models", manager.run)

    resolution = reloader.start(files.models)
    if config.models.scan and config.models.scan_period_s:
        _start_thread("scan", functools.partial(source.run, config.models.scan_period_s, stopping.event))
    while not resolution.wait(STOP_CHECK_S):
        if stopping.wait(0):
            return 0
    if resolution.failures:
        raise unavailable("servable(s)", resolution.failures)
    loads.resize(config.loading.load_threads)

    server.start()
    ports = _announce(server, config)
    _start_thread("control", functools.partial(_answer_calls, server, reloader, stopping.event))
    if config.models.config_file and config.models.config_file_period_s:
        read = functools.partial(read_models, config.models.config_file, engine)
        watch = functools.partial(watch_config_file, read, reloader, config.models.config_file_period_s, stopping.event)
        _start_thread("config", watch)
    on_ready(ports)

    stopping.wait()
    log.info("Stopping: requests in flight have %s s to finish", config.drain_timeout_s)
    # On a thread of its own: only while the main thread runs Python can a second signal end the process at once.
    drain = _start_thread("drain", functools.partial(_drain, server, manager, config.drain_timeout_s))
    while drain.is_alive():
        drain.join(STOP_CHECK_S)
    return 0


def _manager(config: Config, files: Files, server: engine.Server, loads: ThreadPool) -> Manager:
    platforms = Platforms(PlatformSettings(files.session, config.loading.op_libraries))

    def make_loader(name: str, aspired: Aspired) -> Loader:
        return platforms.get(aspired.platform).loader(name, aspired.version, aspired.path)

    return Manager(
        make_loader=make_loader,
        publish=server.publish,
        loads=loads,
        unloads=ThreadPool("unload", config.loading.unload_threads),
        retries=Retries(config.loading.retries, config.loading.retry_interval_s),
    )


def _announce(server: engine.Server, config: Config) -> Ports:
    """Say that the ports are open, in the words that people's scripts look for."""
    ports = Ports(server.grpc_port, server.rest_port)
    if ports.grpc is not None:
        host, _, _ = (config.server.grpc_address or "").rpartition(":")
        log.info("Running gRPC ModelServer at %s:%s ...", host, ports.grpc)
    if config.server.grpc_socket_path is not None:
        log.info("Running gRPC ModelServer at UNIX socket %s ...", config.server.grpc_socket_path)
    if ports.rest is not None:
        log.info("Exporting HTTP/REST API at:localhost:%s ...", ports.rest)
    return ports


def _answer_calls(server: engine.Server, reloader: Reloader, stopped: threading.Event) -> None:
    """Answer the calls that the engine leaves to us, until `stopped`."""
    while not stopped.is_set():
        call = server.next_call(CALL_WAIT_S)
        if call is None:
            continue
        try:
            if call.method != "HandleReloadConfigRequest":
                raise ServableError(f"{call.method} is not implemented", code="UNIMPLEMENTED")
            call.reply(answer_reload(call.request, reloader, engine))
        except ServableError as error:
            call.fail(error.code, error.message)
        except Exception as error:
            log.exception("%s failed; this is a bug", call.method)
            call.fail(InternalError.code, str(error))


def _drain(server: engine.Server, manager: Manager, timeout_s: float) -> None:
    if not server.stop(timeout_s):
        # What they still run holds its model, so unloading would wait; the end of the process does not.
        log.warning("Requests were still running after %s s; they were cut off", timeout_s)
        return
    if not manager.close().wait(UNLOAD_TIMEOUT_S):
        log.warning("Some models were not unloaded within %s s", UNLOAD_TIMEOUT_S)


def _start_thread(name: str, target: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=target, name=name, daemon=True)
    thread.start()
    return thread


class _Stopping:
    """The first signal asks for an orderly stop, the second one ends the process.

    The interpreter writes a byte for every signal, which ends a `wait` whenever it comes. A wait for a lock would miss
    a signal that arrives just before it; and a handler must not take a lock that the thread it interrupts may hold.
    """

    def __init__(self) -> None:
        self.event = threading.Event()
        """Set when the stop has begun, for all threads but the main one."""
        self._is_asked = False
        self._signals, self._sender = socket.socketpair()
        self._sender.setblocking(False)
        signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the first signal, on the main thread; then everybody else hears of it through `event`."""
        while not self._is_asked:
            if not select.select([self._signals], [], [], timeout_s)[0]:
                return False
            self._signals.recv(64)
        self.event.set()
        return True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._is_asked:
            os._exit(128 + number)
        self._is_asked = True
