"""A server in a process of its own, started by the command that people use, and the models to start it with."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

REPOSITORY = Path(__file__).parents[2]
MODELS = REPOSITORY / "tests" / "models"
DEMO = REPOSITORY / "python" / "servable" / "demo"
HALF_PLUS_TWO = DEMO / "models" / "half_plus_two"

DEADLINE_S = 30.0
"""For what takes a moment on an idle machine, and may take longer on a busy one."""
POLL_S = 0.02


def command(name: str) -> str:
    """The path of a console script in the environment that runs the tests."""
    return str(Path(sys.executable).parent / name)


def wait_until(condition: Callable[[], bool], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Wait for a condition; fails after the deadline, saying what was waited for."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"waited {deadline_s} s in vain: {what}"
        time.sleep(POLL_S)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on at the moment."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def accepts(port: int) -> bool:
    """Whether somebody takes connections on a port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


@dataclass(frozen=True)
class Model:
    """An entry of a model configuration file."""

    name: str
    base_path: Path
    policy: str = ""
    labels: Mapping[str, int] = field(default_factory=dict)

    def text(self) -> str:
        """Protobuf text, as people write it."""
        labels = "".join(
            f"    version_labels {{ key: '{key}' value: {value} }}\n" for key, value in self.labels.items()
        )
        policy = f"    model_version_policy {{ {self.policy} }}\n" if self.policy else ""
        return (
            f"  config {{\n    name: '{self.name}'\n    base_path: '{self.base_path}'\n"
            f"    model_platform: 'tensorflow'\n{policy}{labels}  }}\n"
        )


def config_text(models: Sequence[Model]) -> str:
    """A `ModelServerConfig` as protobuf text."""
    return "model_config_list {\n" + "".join(model.text() for model in models) + "}\n"


class ServerProcess:
    """A running server. `flags` follow those for the ports; the log is kept in a file until the process is done."""

    def __init__(
        self,
        flags: Sequence[str],
        log: Path,
        *,
        arguments: Sequence[str] = ("tensorflow_model_server",),
        environment: Mapping[str, str] | None = None,
        with_grpc: bool = True,
    ) -> None:
        self.rest_port, port = free_ports(2)
        self.grpc_port = port if with_grpc else 0
        self._log = log
        program, *rest = arguments
        ports = [f"--port={self.grpc_port}", f"--rest_api_port={self.rest_port}", "--bind_host=127.0.0.1"]
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [command(program), *rest, *ports, *flags],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
            )

    @property
    def grpc_address(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def folder(self) -> Path:
        """Where its log lies."""
        return self._log.parent

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def is_open(self) -> bool:
        """Whether the ports are open, which they are once the models are there."""
        return accepts(self.rest_port)

    def is_running(self) -> bool:
        return self.process.poll() is None

    def wait_ready(self) -> ServerProcess:
        self.wait_for(self.is_open, "the server opens its ports")
        return self

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for a condition that can only come true while the server runs."""

        def holds() -> bool:
            assert self.is_running(), f"the server has ended with {self.process.returncode}:\n{self.log}"
            return condition()

        wait_until(holds, what)

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def exit_code(self) -> int:
        """Wait for the end of the process."""
        return self.process.wait(DEADLINE_S)

    def stop(self) -> None:
        """An orderly stop, which has to succeed."""
        self.signal()
        assert self.exit_code() == 0, self.log

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self.is_running():
                self.stop()
        finally:
            if self.is_running():
                self.process.kill()
                self.process.wait()
            if error is not None:
                print(self.log)


@contextmanager
def serving(models: Sequence[Model] | str, folder: Path, *flags: str) -> Iterator[ServerProcess]:
    """A ready server with these models, or with a whole configuration as text. It and the log lie in `folder`."""
    config = folder / "models.config"
    config.write_text(models if isinstance(models, str) else config_text(models))
    with ServerProcess([f"--model_config_file={config}", *flags], folder / "server.log") as server:
        yield server.wait_ready()


def run_to_end(*arguments: str, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """What a command prints that ends by itself; the first argument is the name of a console script."""
    program, *rest = arguments
    return subprocess.run(
        [command(program), *rest],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def hiding(folder: Path, *modules: str) -> dict[str, str]:
    """An environment for processes in which these packages are not installed."""
    folder.mkdir()
    lines = ["import sys", *(f"sys.modules[{module!r}] = None" for module in modules)]
    (folder / "sitecustomize.py").write_text("\n".join(lines) + "\n")
    path = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": os.pathsep.join([str(folder), *([path] if path else [])])}
