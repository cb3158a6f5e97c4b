"""A server that is attacked while good clients go on: what they must not notice, and what it may cost."""

from __future__ import annotations

import resource
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import pytest

from tests.e2e.grpc_client import Grpc, predict_request
from tests.e2e.rest_client import Rest
from tests.e2e.server import HALF_PLUS_TWO, MODELS, Model, ServerProcess, serving, wait_until

ON_LINUX = sys.platform == "linux"
MIB = 1 << 20
PAUSE_S = 0.005
"""Good clients leave some of the machine to the attack."""
LEAST_ANSWERS = 3
KEPT_MIB = 192
"""What the allocator may keep of earlier attacks."""
STOP_S = 10.0
"""A server that still counts a request as in flight waits 30 s for it."""

LEAST_DESCRIPTORS = 3000

MAX_MESSAGE_BYTES = 16 * MIB
MAX_DECOMPRESSED_BYTES = 8 * MIB
MAX_BYTES_IN_FLIGHT = 64 * MIB
LIMITS = (
    f"--max_message_bytes={MAX_MESSAGE_BYTES}",
    f"--max_body_bytes={MAX_MESSAGE_BYTES}",
    f"--max_decompressed_bytes={MAX_DECOMPRESSED_BYTES}",
    f"--max_bytes_in_flight={MAX_BYTES_IN_FLIGHT}",
)
"""Small ones, so that what goes beyond them shows at once."""


def memory_bytes(server: ServerProcess) -> int:
    """Memory that is the process's own; pages of libraries come and go and belong to nobody."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("RssAnon:"))
    return int(line.split()[1]) << 10


def descriptors(server: ServerProcess) -> int:
    return sum(1 for _ in Path(f"/proc/{server.process.pid}/fd").iterdir())


class GoodTraffic:
    """Clients that ask for something simple, over and over, and note each answer that is not the right one."""

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self._stopping = threading.Event()
        self.answered: Counter[str] = Counter()
        self.failures: list[str] = []
        self.slowest_s = 0.0
        kinds = {"gRPC": self._grpc, "REST": self._rest, "REST, a connection each": self._rest_anew}
        self._threads = [threading.Thread(target=self._run, args=item, daemon=True) for item in kinds.items()]

    def _run(self, kind: str, prepare: Callable[[], Iterator[str]]) -> None:
        try:
            answers = prepare()
            while not self._stopping.wait(PAUSE_S):
                start = time.monotonic()
                if wrong := next(answers):
                    self.failures.append(f"{kind}: {wrong}")
                self.slowest_s = max(self.slowest_s, time.monotonic() - start)
                self.answered[kind] += 1
        except Exception as error:
            self.failures.append(f"{kind}: {error!r}")

    def _grpc(self) -> Iterator[str]:
        request = predict_request("half_plus_two", {"x": [1.0, 2.0, 5.0]})
        with Grpc(self._server.grpc_address) as client:
            while True:
                values = list(client.predict(request).outputs["y"].float_val)
                yield "" if values == [2.5, 3.0, 4.5] else str(values)

    def _rest(self) -> Iterator[str]:
        with Rest(self._server.rest_port) as client:
            while True:
                yield self._fault(client)

    def _rest_anew(self) -> Iterator[str]:
        while True:
            with Rest(self._server.rest_port) as client:
                yield self._fault(client)

    @staticmethod
    def _fault(client: Rest) -> str:
        answer = client.predict("half_plus_two", {"instances": [1.0, 2.0, 5.0]})
        is_right = answer.status == 200 and answer.json == {"predictions": [2.5, 3.0, 4.5]}
        return "" if is_right else repr(answer)

    def goes_on(self) -> None:
        """Wait for further answers of each kind."""
        before = self.answered.copy()
        kinds = len(self._threads)

        def went_on() -> bool:
            assert not self.failures, self.failures
            more = self.answered - before
            return sum(count >= LEAST_ANSWERS for count in more.values()) == kinds

        wait_until(went_on, "good requests are answered")

    def __enter__(self) -> GoodTraffic:
        for thread in self._threads:
            thread.start()
        self.goes_on()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()


class Peak:
    """The most memory that a server has, looked at all the time."""

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.start = self.bytes = memory_bytes(server)

    def look(self) -> None:
        self.bytes = max(self.bytes, memory_bytes(self._server))

    @property
    def growth_mib(self) -> float:
        return (self.bytes - self.start) / MIB

    def _run(self) -> None:
        while not self._stopping.wait(PAUSE_S):
            self.look()

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join()
        if error is None:
            self.look()


class Siege:
    """A server and its good clients."""

    def __init__(self, server: ServerProcess, good: GoodTraffic) -> None:
        self.server = server
        self.good = good
        self._memory_bytes = memory_bytes(server)
        self._open = descriptors(server) + 1
        """At rest; one of the good clients has a connection only now and then."""

    @contextmanager
    def attack(self, most_mib: float) -> Iterator[None]:
        """What happens inside may cost the server so much memory, and nobody an answer; afterwards all is as before.

        The attacker's connections have to be closed inside, and `goes_on` called while they stand.
        """
        answers_before = self.good.answered.total()
        self.good.slowest_s = 0.0
        start = time.monotonic()
        with Peak(self.server) as peak:
            yield
            self.good.goes_on()
            self.server.wait_for(lambda: descriptors(self.server) <= self._open, "connections are given back")
        answers = self.good.answered.total() - answers_before
        in_all_mib = (peak.bytes - self._memory_bytes) / MIB
        took_s, slowest_ms = time.monotonic() - start, self.good.slowest_s * 1000
        print(f"{peak.growth_mib:.1f} MiB more (at most {most_mib:.0f}), {in_all_mib:.1f} since the start")
        print(f"{answers} good answers in {took_s:.2f} s, the slowest took {slowest_ms:.0f} ms")
        assert not self.good.failures
        assert peak.growth_mib <= most_mib
        assert in_all_mib <= most_mib + KEPT_MIB


@contextmanager
def besieged(folder: Path, *flags: str) -> Iterator[Siege]:
    """A server with small limits and metrics, which has to stop at once at the end: nothing is in flight then."""
    need_descriptors(LEAST_DESCRIPTORS)
    (folder / "monitoring").write_text("prometheus_config { enable: true }")
    models = [
        Model("half_plus_two", HALF_PLUS_TWO),
        *(Model(name, MODELS / name) for name in ("half", "big", "slow", "total")),
    ]
    monitoring = f"--monitoring_config_file={folder / 'monitoring'}"
    with serving(models, folder, monitoring, *LIMITS, *flags) as server:
        with GoodTraffic(server) as good:
            yield Siege(server, good)
        assert not good.failures
        start = time.monotonic()
        server.stop()
        assert time.monotonic() - start < STOP_S, "something was in flight"


def limit_descriptors(server: ServerProcess, most: int) -> None:
    """Take descriptors away from a running server."""
    _, hard = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (most, hard))


def need_descriptors(most: int) -> None:
    """Allow so many to us and to the servers that we start."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < most:
        pytest.skip(f"{most} descriptors are needed, and {hard} are allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
