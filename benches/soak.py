"""A long run of everything at once, at a light load: does memory stay flat, and does every request get its due?

    python benches/soak.py [--minutes N] [--rate N] [--most-growth-mb N] [--quick]

Clients send good, bad, large and broken-off requests over gRPC and REST to a server of several models with batching,
while one model changes its version all the time and the metrics are read. Resident memory is sampled meanwhile; after a
warm-up of a fifth of the run, a line is fitted through the samples. Ends with 1 if a request was not answered as it had
to be, if the server did not end in order, or if that line rises by more than `--most-growth-mb`.

Needs Linux, grpcio and matplotlib. The load is light so that it can run beside other work: what is measured is memory,
not speed. `RssAnon` is judged, the memory that is the process's own; pages of libraries come and go and are nobody's.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import dataclasses
import http.client
import importlib.util
import json
import os
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import grpc
from harness import MODELS, RESULTS, is_available, keep
from servable import engine

TEST_MODELS = MODELS.parents[3] / "tests" / "models"
CLIENTS = 4
SAMPLE_S = 5.0
SWAP_S = 15.0
WITHIN_S = 60.0
"""For an answer, and for a change of versions, on a busy machine."""
WARM_UP = 0.2
"""Share of the run that is not judged: caches fill, and as many ended versions gather as are remembered."""
KEPT_FAILURES = 20
LARGE_FLOATS = 250_000
SERVICE = "/tensorflow.serving.PredictionService"
BATCHING = "max_batch_size { value: 32 } batch_timeout_micros { value: 1000 } max_enqueued_batches { value: 1000 }"


@dataclasses.dataclass(frozen=True)
class Sample:
    """What the server held at a moment, in seconds since the start and MB."""

    at_s: float
    own_mb: float
    resident_mb: float
    threads: int
    descriptors: int
    metrics_bytes: int


@dataclasses.dataclass(frozen=True)
class Line:
    """A line through samples: where it begins, and how steep it is."""

    first_mb: float
    mb_per_hour: float
    hours: float

    @property
    def growth_mb(self) -> float:
        return self.mb_per_hour * self.hours


class WrongAnswerError(Exception):
    """A request was not answered as it had to be."""


class Server:
    """The server that is soaked, and the folder of the model whose versions change."""

    def __init__(self, scratch: Path) -> None:
        self.grpc_port, self.rest_port = free_ports(2)
        self.changing = scratch / "changing"
        self.log = scratch / "server.log"
        self.version = 1
        shutil.copytree(MODELS / "half_plus_two" / "1", self.changing / "1")
        folders = {
            **{name: MODELS / name for name in ("half_plus_two", "yolo_digit")},
            **{name: TEST_MODELS / name for name in ("lookup", "slow", "fail")},
            "changing": self.changing,
        }
        models = "".join(
            f'config {{ name: "{name}" base_path: "{folder}" model_platform: "tensorflow" }}\n'
            for name, folder in folders.items()
        )
        (scratch / "models.config").write_text(f"model_config_list {{\n{models}}}\n")
        (scratch / "monitoring.config").write_text("prometheus_config { enable: true }")
        (scratch / "batching.config").write_text(BATCHING)
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [
                    str(Path(sys.executable).with_name("tensorflow_model_server")),
                    f"--port={self.grpc_port}",
                    f"--rest_api_port={self.rest_port}",
                    "--bind_host=127.0.0.1",
                    f"--model_config_file={scratch / 'models.config'}",
                    f"--monitoring_config_file={scratch / 'monitoring.config'}",
                    f"--batching_parameters_file={scratch / 'batching.config'}",
                    "--enable_batching",
                    "--unbatched_fallback",
                    "--version_settle_seconds=0",
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + WITHIN_S
        while not condition():
            if self.process.poll() is not None or time.monotonic() > end:
                raise WrongAnswerError(f"{what}: not within {WITHIN_S} s; the server's code is {self.process.poll()}")
            time.sleep(0.05)

    def change_version(self) -> None:
        """A new version appears and takes over; the old one goes."""
        old, self.version = self.version, self.version + 1
        aside = self.changing.with_name("incoming")
        shutil.copytree(self.changing / str(old), aside)
        aside.rename(self.changing / str(self.version))
        wanted = {self.version: "AVAILABLE", old: "END"}
        self.wait_for(lambda: self.newest_states() == wanted, f"version {self.version} takes over")
        shutil.rmtree(self.changing / str(old))

    def newest_states(self) -> dict[int, str]:
        with urllib.request.urlopen(
            f"http://127.0.0.1:{self.rest_port}/v1/models/changing", timeout=WITHIN_S
        ) as answer:
            listed = json.loads(answer.read())["model_version_status"]
        return {int(version["version"]): version["state"] for version in listed[:2]}

    def metrics(self) -> bytes:
        page = f"http://127.0.0.1:{self.rest_port}/monitoring/prometheus/metrics"
        with urllib.request.urlopen(page, timeout=WITHIN_S) as answer:
            text: bytes = answer.read()
        if b":tensorflow:serving:request_count" not in text:
            raise WrongAnswerError("the metrics page lacks its counters")
        return text

    def sample(self, at_s: float) -> Sample:
        folder = Path(f"/proc/{self.process.pid}")
        status = (folder / "status").read_text()
        kilobytes = {name: int(value) for name, value in re.findall(r"(RssAnon|VmRSS|Threads):\s+(\d+)", status)}
        return Sample(
            at_s,
            kilobytes["RssAnon"] / 1024,
            kilobytes["VmRSS"] / 1024,
            kilobytes["Threads"],
            sum(1 for _ in (folder / "fd").iterdir()),
            len(self.metrics()),
        )

    def stop(self) -> int:
        """An orderly stop; gives the exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(2 * WITHIN_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


class Client:
    """One gRPC channel and one REST connection, renewed now and then, and the kinds of requests that go over them."""

    def __init__(self, server: Server, seed: int) -> None:
        self._server = server
        self._random = random.Random(seed)
        self._picture = json.dumps(
            {"instances": [{"b64": base64.b64encode((MODELS.parent / "digits.png").read_bytes()).decode()}]}
        )
        self._long_list = json.dumps({"instances": [0.5] * 20_000})
        self._large = predict_large()
        self._lines: contextlib.ExitStack = contextlib.ExitStack()
        self.renew()
        # How often each, in parts.
        self._kinds: list[tuple[Callable[[], None], int]] = [
            (self.grpc_predict, 20),
            (self.rest_predict, 20),
            (self.changing_over_grpc, 12),
            (self.changing_over_rest, 12),
            (self.words, 6),
            (self.picture, 2),
            (self.slow, 4),
            (self.large_over_grpc, 2),
            (self.large_over_rest, 2),
            (self.metadata_and_status, 3),
            (self.unknown_model, 4),
            (self.wrong_input, 4),
            (self.failing_op, 4),
            (self.garbage, 4),
            (self.cancelled, 3),
            (self.broken_off, 3),
            (self.renew, 1),
        ]

    def pick(self) -> Callable[[], None]:
        kinds, weights = zip(*self._kinds, strict=True)
        picked: Callable[[], None] = self._random.choices(kinds, weights)[0]
        return picked

    def renew(self) -> None:
        """Connections anew."""
        self._lines.close()
        self._channel = self._lines.enter_context(
            grpc.insecure_channel(
                f"127.0.0.1:{self._server.grpc_port}",
                options=[("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)],
            )
        )
        self._rest = self._lines.enter_context(
            contextlib.closing(http.client.HTTPConnection("127.0.0.1", self._server.rest_port, timeout=WITHIN_S))
        )

    def close(self) -> None:
        self._lines.close()

    # Good requests.

    def grpc_predict(self) -> None:
        self._call("Predict", predict("half_plus_two", [1.0, 2.0, 5.0]))

    def rest_predict(self) -> None:
        self._post("half_plus_two:predict", '{"instances": [1.0, 2.0, 5.0]}', 200, b"4.5")

    def changing_over_grpc(self) -> None:
        self._call("Predict", predict("changing", [1.0]))

    def changing_over_rest(self) -> None:
        self._post("changing:predict", '{"instances": [1.0]}', 200, b"2.5")

    def words(self) -> None:
        self._post("lookup:predict", '{"instances": ["a", "b", "nobody"]}', 200)

    def picture(self) -> None:
        self._post("yolo_digit:predict", self._picture, 200, b"detection_classes")

    def slow(self) -> None:
        self._post("slow:predict", '{"signature_name": "ms", "inputs": {"ms": 20, "x": [1.0]}}', 200)

    def large_over_grpc(self) -> None:
        if len(self._call("Predict", self._large)) < 4 * LARGE_FLOATS:
            raise WrongAnswerError("a large answer is too short")

    def large_over_rest(self) -> None:
        self._post("half_plus_two:predict", self._long_list, 200, b"2.25")

    def metadata_and_status(self) -> None:
        self._exchange("GET", "/v1/models/yolo_digit/metadata", None, 200, b"signature_def")
        self._exchange("GET", "/v1/models/changing", None, 200, b"AVAILABLE")
        self._server.metrics()

    # Requests that have to be refused.

    def unknown_model(self) -> None:
        self._call("Predict", predict("nobody", [1.0]), "NOT_FOUND")
        self._post("nobody:predict", '{"instances": [1.0]}', 404, b"error")

    def wrong_input(self) -> None:
        self._call("Predict", predict("half_plus_two", [1.0], name="nothing"), "INVALID_ARGUMENT")
        self._post("half_plus_two:predict", '{"instances": ["text"]}', 400, b"error")

    def failing_op(self) -> None:
        self._post("fail:predict", '{"signature_name": "divide", "inputs": {"a": [1], "b": [0]}}', 400, b"error")

    def garbage(self) -> None:
        self._call("Predict", self._random.randbytes(200) + b"\xff", "INTERNAL", "INVALID_ARGUMENT", "NOT_FOUND")
        self._post("half_plus_two:predict", '{"instances": [1.0, ', 400, b"error")

    # Clients that go.

    def cancelled(self) -> None:
        call = self._stub("Predict").future(self._large, timeout=WITHIN_S)
        time.sleep(self._random.random() / 100)
        call.cancel()

    def broken_off(self) -> None:
        port = self._server.rest_port if self._random.random() < 0.5 else self._server.grpc_port
        with socket.create_connection(("127.0.0.1", port), timeout=WITHIN_S) as line:
            if port == self._server.rest_port:
                line.sendall(
                    b"POST /v1/models/half_plus_two:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n{"
                )
                line.sendall(b" " * self._random.randrange(50_000))
            else:
                line.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x40")
            if self._random.random() < 0.5:  # a reset rather than an end
                line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    # How they are sent.

    def _stub(self, method: str) -> grpc.UnaryUnaryMultiCallable[bytes, bytes]:
        return self._channel.unary_unary(f"{SERVICE}/{method}")

    def _call(self, method: str, message: bytes, *codes: str) -> bytes:
        """Send a message, which has to fail with one of `codes` if there are any."""
        try:
            answer: bytes = self._stub(method)(message, timeout=WITHIN_S)
        except grpc.RpcError as error:
            if isinstance(error, grpc.Call) and error.code().name in codes:
                return b""
            raise WrongAnswerError(repr(error)) from None
        if codes:
            raise WrongAnswerError(f"an answer rather than {' or '.join(codes)}")
        return answer

    def _post(self, path: str, body: str, status: int, part: bytes = b"") -> None:
        self._exchange("POST", f"/v1/models/{path}", body, status, part)

    def _exchange(self, method: str, path: str, body: str | None, status: int, part: bytes) -> None:
        try:
            self._rest.request(method, path, body)
            answer = self._rest.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self._rest.close()
            raise WrongAnswerError(f"{method} {path}: {error!r}") from error
        if answer.status != status or part not in text:
            raise WrongAnswerError(f"{method} {path}: {answer.status} {text[:200]!r}")


class Soak:
    """Clients, changes of versions and samples, each at its own pace, until the time is over."""

    def __init__(self, server: Server, rate: float) -> None:
        self._server = server
        self._rate = rate
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self.sent: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.messages: list[str] = []
        self.slowest_s = 0.0
        self.samples: list[Sample] = []
        self.changes = 0

    def run(self, seconds: float) -> None:
        start = time.monotonic()
        threads = [threading.Thread(target=self._send, args=(seed,)) for seed in range(CLIENTS)]
        threads.append(threading.Thread(target=self._change_versions))
        for thread in threads:
            thread.start()
        try:
            while (at_s := time.monotonic() - start) < seconds:
                try:
                    self.samples.append(self._server.sample(at_s))
                except (OSError, WrongAnswerError) as error:
                    self._fails("sample", error)
                    if self._server.process.poll() is not None:
                        break
                time.sleep(min(SAMPLE_S, seconds - at_s))
        finally:
            self._stopped.set()
            for thread in threads:
                thread.join()

    def _send(self, seed: int) -> None:
        client = Client(self._server, seed)
        pace = random.Random(seed)
        with contextlib.closing(client):
            while not self._stopped.wait(pace.expovariate(self._rate / CLIENTS)):
                request = client.pick()
                name, begin = request.__name__, time.monotonic()
                try:
                    request()
                except Exception as error:
                    self._fails(name, error)
                with self._lock:
                    self.sent[name] += 1
                    self.slowest_s = max(self.slowest_s, time.monotonic() - begin)

    def _change_versions(self) -> None:
        while not self._stopped.wait(SWAP_S):
            try:
                self._server.change_version()
            except Exception as error:
                self._fails("change_version", error)
                return  # the folder is not what it should be: one failure says it
            self.changes += 1

    def _fails(self, name: str, error: Exception) -> None:
        with self._lock:
            self.failures[name] += 1
            if len(self.messages) < KEPT_FAILURES:
                self.messages.append(f"{name}: {error!r}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Memory and answers over a long mixed run")
    parser.add_argument("--minutes", type=float, default=float(os.environ.get("SOAK_MINUTES", "60")))
    parser.add_argument("--rate", type=float, default=60.0, help="requests per second, of all clients together")
    parser.add_argument(
        "--most-growth-mb", type=float, default=20.0, help="of the fitted line, from its begin to its end"
    )
    parser.add_argument("--quick", action="store_true", help="a minute: does it still work?")
    arguments = parser.parse_args()
    if not importlib.util.find_spec("matplotlib"):
        print("missing: matplotlib (pip install --group bench)")
        return 2
    minutes = 1.0 if arguments.quick else arguments.minutes
    with tempfile.TemporaryDirectory() as scratch, serving(Path(scratch)) as server:
        soak = Soak(server, arguments.rate)
        soak.run(60 * minutes)
        code = server.stop()
        log = server.log.read_text(errors="replace")
    line = fitted([sample for sample in soak.samples if sample.at_s >= WARM_UP * 60 * minutes])
    problems = [f"{name} failed {count} times" for name, count in soak.failures.items()] + soak.messages
    if code != 0:
        problems.append(f"the server ended with {code}")
    if line.growth_mb > arguments.most_growth_mb:
        problems.append(f"memory grew by {line.growth_mb:.1f} MB, more than {arguments.most_growth_mb:g}")
    report(soak, line, minutes, arguments.rate, arguments.most_growth_mb, problems)
    if problems:
        print("\nThe end of the server's log:", *log.splitlines()[-30:], sep="\n")
    return 1 if problems else 0


@contextlib.contextmanager
def serving(scratch: Path) -> Iterator[Server]:
    server = Server(scratch)
    try:
        try:
            server.wait_for(lambda: is_available(server.rest_port, "changing"), "the server comes up")
        except WrongAnswerError as error:
            raise SystemExit(f"{error}\n{server.log.read_text(errors='replace')}") from None
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def predict(model: str, values: Sequence[float], name: str = "x") -> bytes:
    tensor = {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [{"size": len(values)}]}, "float_val": values}
    message = {"model_spec": {"name": model}, "inputs": {name: tensor}}
    return engine.encode_json("tensorflow.serving.PredictRequest", json.dumps(message))


def predict_large() -> bytes:
    """A request of a megabyte, all of it sent."""
    content = base64.b64encode(struct.pack("<f", 0.5) * LARGE_FLOATS).decode()
    tensor = {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [{"size": LARGE_FLOATS}]}, "tensor_content": content}
    message = {"model_spec": {"name": "half_plus_two"}, "inputs": {"x": tensor}}
    return engine.encode_json("tensorflow.serving.PredictRequest", json.dumps(message))


def fitted(samples: Sequence[Sample]) -> Line:
    """The line of least squares through the server's own memory."""
    if len(samples) < 2:
        raise SystemExit("too few samples for a line: the run was too short, or the server has gone")
    times = [sample.at_s / 3600 for sample in samples]
    sizes = [sample.own_mb for sample in samples]
    middle_time, middle_size = sum(times) / len(times), sum(sizes) / len(sizes)
    spread = sum((time - middle_time) ** 2 for time in times)
    both = sum((time - middle_time) * (size - middle_size) for time, size in zip(times, sizes, strict=True))
    slope = both / spread
    return Line(middle_size + slope * (times[0] - middle_time), slope, times[-1] - times[0])


def report(soak: Soak, line: Line, minutes: float, rate: float, most_growth_mb: float, problems: Sequence[str]) -> None:
    judged = [sample for sample in soak.samples if sample.at_s >= WARM_UP * 60 * minutes]
    sizes = [sample.own_mb for sample in judged]
    total = sum(soak.sent.values())
    rows = [
        ("minutes, of which not judged", f"{minutes:g}, {WARM_UP * minutes:g}"),
        ("requests", f"{total:,} ({total / (60 * minutes):.0f} per second)"),
        ("changes of a version", f"{soak.changes}"),
        ("requests that were not answered as they had to be", f"{sum(soak.failures.values())}"),
        ("slowest request", f"{soak.slowest_s:.2f} s"),
        ("own memory: fewest, most", f"{min(sizes):.1f} MB, {max(sizes):.1f} MB"),
        ("line through it", f"from {line.first_mb:.1f} MB, {line.mb_per_hour:+.1f} MB per hour"),
        ("growth of the line; bound", f"{line.growth_mb:+.1f} MB; {most_growth_mb:g} MB"),
        ("threads, first and last", f"{judged[0].threads}, {judged[-1].threads}"),
        ("descriptors, first and last", f"{judged[0].descriptors}, {judged[-1].descriptors}"),
        ("metrics page, first and last", f"{judged[0].metrics_bytes:,}, {judged[-1].metrics_bytes:,} bytes"),
    ]
    table = ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]
    table += ["", *(f"- {problem}" for problem in problems)] if problems else []
    keep(
        "soak",
        "\n".join(table),
        {
            "minutes": minutes,
            "rate": rate,
            "sent": soak.sent,
            "failures": soak.failures,
            "problems": problems,
            "changes": soak.changes,
            "line": {**dataclasses.asdict(line), "growth_mb": line.growth_mb},
            "samples": [dataclasses.asdict(sample) for sample in soak.samples],
        },
    )
    draw(soak.samples, line, WARM_UP * minutes, RESULTS / "soak.svg")


def draw(samples: Sequence[Sample], line: Line, from_minute: float, path: Path) -> None:
    """Memory over time, and the line through what is judged."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "soak"})  # text stays text, ids stay
    figure = Figure(figsize=(7.0, 3.5), layout="constrained")
    panel = figure.subplots()
    minutes = [sample.at_s / 60 for sample in samples]
    panel.plot(
        minutes, [sample.resident_mb for sample in samples], color="#999999", linewidth=1, label="resident (VmRSS)"
    )
    panel.plot(minutes, [sample.own_mb for sample in samples], color="#0072b2", linewidth=1, label="its own (RssAnon)")
    ends = [line.first_mb, line.first_mb + line.growth_mb]
    label = f"{line.mb_per_hour:+.1f} MB per hour"
    panel.plot([from_minute, minutes[-1]], ends, color="#d55e00", linestyle="--", linewidth=1.5, label=label)
    panel.set(xlabel="minutes", ylabel="MB")
    panel.set_ylim(bottom=0)
    panel.set_xlim(left=0)
    panel.grid(which="major", color="#dddddd")
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    sys.exit(main())
