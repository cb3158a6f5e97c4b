"""`servable replay`: logged requests sent to a server, their answers compared with the logged ones."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from servable.cli.arguments import FAILED, Parser, show
from servable.cli.comparison import Difference, compare
from servable.cli.credentials import Credentials
from servable.cli.logged import Logged, read_logged
from servable.errors import FailedPreconditionError, FlagError, InvalidArgumentError, ServableError

__all__ = ["replay"]

MOST_SHOWN = 10
TIMEOUT_S = 60.0


@dataclass
class Outcome:
    """What became of all requests."""

    equal: int = 0
    different: int = 0
    failed: int = 0
    unanswered: int = 0
    """Sent and timed, with no logged answer to compare with."""
    latencies_s: list[float] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    """The first ones."""
    largest: float = 0.0
    took_s: float = 0.0

    def as_json(self) -> dict[str, Any]:
        took = sorted(self.latencies_s)

        def rank(share: float) -> float | None:
            return round(1000 * took[max(0, math.ceil(share * len(took)) - 1)], 3) if took else None

        return {
            "equal": self.equal,
            "different": self.different,
            "failed": self.failed,
            "unanswered": self.unanswered,
            "largest_deviation": self.largest,
            "differences": self.differences,
            "latency_ms": {"p50": rank(0.5), "p90": rank(0.9), "p99": rank(0.99), "max": rank(1.0)},
            "requests_per_second": round(len(took) / self.took_s, 3) if self.took_s else 0.0,
        }


def replay(arguments: Sequence[str]) -> int:
    """Returns 0 if every answer is as it was logged, 1 if not."""
    parser = Parser(prog="servable replay", description="Send logged requests to a server and compare its answers.")
    parser.add_argument("files", nargs="+", metavar="FILE", help="TFRecords of PredictionLogs")
    parser.add_argument("--target", required=True, metavar="HOST:PORT", help="gRPC port of the server")
    parser.add_argument("--model", help="ask this model instead of the logged one")
    pace = parser.add_mutually_exclusive_group()
    pace.add_argument("--rate", type=float, help="requests per second")
    pace.add_argument("--concurrency", type=int, default=1, help="requests at a time (default: 1)")
    parser.add_argument("--limit", type=int, help="send no more requests than this")
    parser.add_argument("--tolerance", type=float, default=1e-5, help="relative or absolute (default: 1e-5)")
    parser.add_credentials()
    parser.add_json()
    from servable.engine import EngineError

    try:
        options = parser.parse_args(arguments)
        if options.concurrency < 1 or (options.rate is not None and not options.rate > 0):
            raise InvalidArgumentError("--concurrency and --rate must be positive")
        send = _sender(options.target, Credentials.of(options))
        requests = (one for path in options.files for one in read_logged(path, options.model))
        outcome = _sent(islice(requests, options.limit), send, options.rate, options.concurrency, options.tolerance)
    except SystemExit as end:  # --help has been printed
        return int(end.code or 0)
    except (ServableError, EngineError) as error:
        print(error.message if isinstance(error, FlagError) else f"{error.code}: {error.message}", file=sys.stderr)
        return FAILED
    if not (outcome.latencies_s or outcome.failed):
        print("there are no requests in these files", file=sys.stderr)
        return FAILED
    result = outcome.as_json()
    show(options, result, lambda: _text(result))
    return 1 if outcome.different or outcome.failed else 0


def _sender(target: str, credentials: Credentials) -> Callable[[str, bytes], bytes]:
    try:
        import grpc
    except ImportError as error:
        raise FailedPreconditionError("replay needs grpcio: pip install 'servable[replay]'") from error
    most = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    metadata = list(credentials.headers.items())
    tls = credentials.grpc()
    if tls is None:
        channel = grpc.insecure_channel(target, options=most)
    else:
        channel = grpc.secure_channel(target, tls, options=most)
    calls: dict[str, Any] = {
        method: channel.unary_unary(f"/tensorflow.serving.PredictionService/{method}")
        for method in ("Predict", "Classify", "Regress", "MultiInference")
    }

    def send(method: str, request: bytes) -> bytes:
        try:
            return bytes(calls[method](request, timeout=TIMEOUT_S, metadata=metadata))
        except grpc.RpcError as error:
            failure: Any = error
            raise ServableError(str(failure.details()), code=failure.code().name) from error

    return send


def _sent(
    requests: Iterator[Logged],
    send: Callable[[str, bytes], bytes],
    rate: float | None,
    concurrency: int,
    tolerance: float,
) -> Outcome:
    outcome, lock, begun = Outcome(), threading.Lock(), time.monotonic()
    numbered = enumerate(requests)
    errors: list[BaseException] = []

    def work() -> None:
        try:
            while not errors:
                with lock:
                    number, logged = next(numbered, (0, None))
                if logged is None:
                    return
                if rate is not None:
                    time.sleep(max(0.0, begun + number / rate - time.monotonic()))
                start = time.monotonic()
                try:
                    answer = send(logged.method, logged.request)
                except ServableError as error:
                    with lock:
                        outcome.failed += 1
                        _note(outcome, f"request {number + 1}: {error.code}: {error.message}")
                    continue
                took = time.monotonic() - start
                found = None if logged.response is None else compare(logged.decode(answer), logged.response, tolerance)
                with lock:
                    outcome.latencies_s.append(took)
                    _count(outcome, number + 1, found)
        except BaseException as error:
            errors.append(error)

    # At a rate, slow answers must not hold up the requests after them.
    threads = [threading.Thread(target=work, daemon=True) for _ in range(64 if rate is not None else concurrency)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    outcome.took_s = time.monotonic() - begun
    return outcome


def _count(outcome: Outcome, number: int, found: Sequence[Difference] | None) -> None:
    if found is None:
        outcome.unanswered += 1
    elif not found:
        outcome.equal += 1
    else:
        outcome.different += 1
        for one in found:
            outcome.largest = max(outcome.largest, one.deviation)
            _note(outcome, f"request {number}: {one.where}: {one.what}")


def _note(outcome: Outcome, text: str) -> None:
    if len(outcome.differences) < MOST_SHOWN:
        outcome.differences.append(text)


def _text(result: Mapping[str, Any]) -> list[str]:
    latency = ", ".join(f"{name} {value}" for name, value in result["latency_ms"].items())
    names = ("equal", "different", "failed", "unanswered")
    return [
        ", ".join(f"{name}: {result[name]}" for name in names),
        *result["differences"],
        f"largest deviation: {result['largest_deviation']:g}",
        f"latency in ms: {latency}; requests per second: {result['requests_per_second']:g}",
    ]
