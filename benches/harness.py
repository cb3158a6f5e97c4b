"""What the benchmarks have in common: programs that run while they are measured, the load, tables and pictures."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import json
import math
import os
import random
import re
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import time
import urllib.request
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from servable import engine

HERE = Path(__file__).resolve().parent
MODELS = HERE.parent / "python" / "servable" / "demo" / "models"
RESULTS = HERE / "results"
OWN = (str(Path(sys.executable).with_name("tensorflow_model_server")),)
TICKS = os.sysconf("SC_CLK_TCK")
READY_WITHIN_S = 300.0
GRPC_HEADERS = ("-H", "content-type: application/grpc", "-H", "te: trailers")
PREDICT = "/tensorflow.serving.PredictionService/Predict"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#777777", "#cc79a7")
WARM_REQUESTS = 1000


@dataclasses.dataclass(frozen=True)
class Server:
    """A server that runs."""

    name: str
    process: subprocess.Popen[bytes]
    grpc_port: int
    rest_port: int

    @property
    def pid(self) -> int:
        return self.process.pid


@dataclasses.dataclass(frozen=True)
class Load:
    """A way of sending one request again and again."""

    path: str
    body: bytes
    connections: int
    in_flight: int
    """On each connection."""
    requests: int
    answer_bytes: int
    """Data in one full answer, at least: a refused gRPC call is HTTP 200 too."""
    is_rest: bool = False


@dataclasses.dataclass(frozen=True)
class Seen:
    """What a load saw. CPU is the server's, per request; latencies are from sending to the end of the answer."""

    requests_per_s: float
    user_us: float
    system_us: float
    p50_us: float
    p99_us: float
    p999_us: float

    @property
    def cpu_us(self) -> float:
        return self.user_us + self.system_us


def require(*tools: str, plots: bool = False) -> None:
    """End the program unless these are installed."""
    missing = [tool for tool in tools if not shutil.which(tool)]
    if missing:
        packages = "nghttp2-client libgrpc++-dev pkg-config g++ util-linux openssl"
        raise SystemExit(f"missing: {', '.join(missing)}. On Debian: apt-get install {packages}")
    if plots and not importlib.util.find_spec("matplotlib"):
        raise SystemExit("missing: matplotlib (pip install --group bench)")


def framed(message: bytes) -> bytes:
    """A message as gRPC frames it: not compressed, length, bytes."""
    return struct.pack(">BI", 0, len(message)) + message


def predict_body(model: str, **inputs: Mapping[str, object]) -> bytes:
    """A framed PredictRequest. Inputs are TensorProtos, written as JSON."""
    message = json.dumps({"model_spec": {"name": model}, "inputs": inputs})
    return framed(engine.encode_json("tensorflow.serving.PredictRequest", message))


def pixels(count: int) -> list[float]:
    """Floats between 0 and 1 that have few digits, and are not all the same."""
    return [index % 256 / 256 for index in range(count)]


def content(*shape: int) -> dict[str, object]:
    """A TensorProto of floats in `tensor_content`."""
    values = array("f", pixels(math.prod(shape))).tobytes()
    return {**_float(shape), "tensor_content": base64.b64encode(values).decode()}


def values(*numbers: float) -> dict[str, object]:
    """A TensorProto of floats in `float_val`, of one dimension."""
    return {**_float((len(numbers),)), "float_val": list(numbers)}


def _float(shape: Sequence[int]) -> dict[str, object]:
    return {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [{"size": size} for size in shape]}}


def h2load(load: Load, server: Server, scratch: Path, client_cores: str | None = None, warm: bool = True) -> Seen:
    """Send a load, after a short one that does not count; fails unless every request gets a full answer.

    Args:
        client_cores: For the client, as taskset takes them; otherwise all.
    """
    body, log = scratch / "body", scratch / "log"
    body.write_bytes(load.body)
    port = server.rest_port if load.is_rest else server.grpc_port
    streams = ("--h1",) if load.is_rest else (*GRPC_HEADERS, "-m", str(load.in_flight))

    def send(requests: int) -> str:
        log.unlink(missing_ok=True)
        command = [
            *(("taskset", "-c", client_cores) if client_cores else ()),
            *("h2load", "-t", "1", "-n", str(requests), "-c", str(min(load.connections, requests))),
            *("-d", str(body), "--log-file", str(log), *streams, f"http://127.0.0.1:{port}{load.path}"),
        ]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        good, data = re.search(r"(\d+) 2xx", output), re.search(r"\((\d+)\) data", output)
        if not good or int(good[1]) != requests or not data or int(data[1]) < requests * load.answer_bytes:
            raise SystemExit(f"{server.name}, {load.path}: not every request was answered\n{output}")
        return output

    if warm:
        send(min(WARM_REQUESTS, max(load.connections, load.requests // 4)))
    before = cpu_times(server.pid)
    output = send(load.requests)
    user, system = (now - then for now, then in zip(cpu_times(server.pid), before, strict=True))
    latencies = sorted(int(line.split(b"\t")[2]) for line in log.read_bytes().splitlines())
    rate = re.search(r"finished in ([\d.]+)(m?s), ([\d.]+) req/s", output)
    if not rate:
        raise SystemExit(f"h2load says no rate\n{output}")
    return Seen(
        float(rate[3]),
        user / load.requests * 1e6,
        system / load.requests * 1e6,
        *(percentile(latencies, percent) for percent in (50, 99, 99.9)),
    )


def percentile(ascending: Sequence[float], percent: float) -> float:
    return ascending[min(len(ascending) - 1, int(len(ascending) * percent / 100))]


def median(turns: Sequence[Seen]) -> Seen:
    """The median of each figure."""
    return Seen(*map(statistics.median, zip(*map(dataclasses.astuple, turns), strict=True)))


def cpu_times(pid: int) -> tuple[float, float]:
    """Seconds of user and of system time of all threads of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) / TICKS, int(fields[12]) / TICKS


def cpu_seconds(pid: int) -> float:
    return sum(cpu_times(pid))


def resident(pid: int) -> float:
    """Resident memory in MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found
    return int(found[1]) / 1024


def pin(pid: int, cores: str) -> None:
    """Move all threads of a process to these cores, once it is up: it starts as it would unmeasured."""
    subprocess.run(["taskset", "-apc", cores, str(pid)], check=True, stdout=subprocess.DEVNULL)


def all_cores() -> str:
    return ",".join(map(str, sorted(os.sched_getaffinity(0))))


@contextlib.contextmanager
def running(command: Sequence[str], is_ready: Callable[[], bool]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + READY_WITHIN_S
        while not is_ready():
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"{command[0]} did not come up")
            time.sleep(0.002)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


@contextlib.contextmanager
def serving(
    name: str, program: Sequence[str], models: Mapping[str, Path], scratch: Path, flags: Sequence[str] = ()
) -> Iterator[Server]:
    """A model server with these models. Ports are free ones: on a fixed one another server might answer."""
    config = scratch / f"{name}.config"
    config.write_text(model_config(models))
    grpc_port, rest_port = free_ports(2)
    command = [*program, f"--port={grpc_port}", f"--rest_api_port={rest_port}", f"--model_config_file={config}", *flags]
    last = list(models)[-1]
    with running(command, lambda: is_available(rest_port, last)) as process:
        yield Server(name, process, grpc_port, rest_port)


def model_config(models: Mapping[str, Path]) -> str:
    entries = [
        f'  config {{ name: "{name}" base_path: "{path}" model_platform: "tensorflow" }}'
        for name, path in models.items()
    ]
    return "\n".join(["model_config_list {", *entries, "}"])


@contextlib.contextmanager
def echo(scratch: Path) -> Iterator[Server]:
    """The yardstick: a gRPC server in C++ that sends every message back."""
    binary = scratch / "grpc_echo"
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "grpc++"], check=True, capture_output=True, text=True
    ).stdout
    subprocess.run(
        ["g++", "-O2", "-std=c++17", str(HERE / "grpc_echo.cc"), "-o", str(binary), *flags.split()], check=True
    )
    (port,) = free_ports(1)
    with running([str(binary), str(port)], lambda: is_open(port)) as process:
        yield Server("echo", process, port, 0)


def open_loop_client(scratch: Path) -> Path:
    """`grpc_load`, built."""
    binary = scratch / "grpc_load"
    subprocess.run(["g++", "-O2", "-std=c++17", str(HERE / "grpc_load.cc"), "-o", str(binary)], check=True)
    return binary


def schedule(requests_per_s: float, end_s: float, arrivals: str, seed: int) -> Iterator[float]:
    """When requests are due, in seconds. The same for the same arguments."""
    gaps = random.Random(seed)
    due = 0.0
    while due < end_s:
        yield due
        due += gaps.expovariate(requests_per_s) if arrivals == "poisson" else 1 / requests_per_s


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def is_open(port: int) -> bool:
    with contextlib.closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def is_available(rest_port: int, model: str) -> bool:
    if not is_open(rest_port):
        return False
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{rest_port}/v1/models/{model}", timeout=5) as answer:
            return b"AVAILABLE" in answer.read()
    except OSError:
        return False


def keep(name: str, table: str, figures: object) -> None:
    """Print a table, and keep it and what it was made of."""
    print(table)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(table + "\n")
    (RESULTS / f"{name}.json").write_text(json.dumps(figures, indent=1))


def machine() -> str:
    """What this is, for the report: processor, cores, system, TensorFlow."""
    cpu = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    system = os.uname()
    versions = f"TensorFlow {importlib.metadata.version('tensorflow-cpu')}"
    return f"{cpu[1] if cpu else system.machine}, {os.cpu_count()} cores, {system.sysname} {system.release}, {versions}"


@contextlib.contextmanager
def picture(name: str, columns: int, rows: int = 1) -> Iterator[Sequence[Any]]:
    """Panels to draw on, kept as an SVG file whose text stays text, the same for the same figures."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": name})
    figure = Figure(figsize=(0.5 + 4.2 * columns, 0.4 + 3.8 * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    yield panels
    for panel in panels:
        panel.grid(which="major", color="#dddddd")
        panel.spines[["top", "right"]].set_visible(False)
    RESULTS.mkdir(exist_ok=True)
    figure.savefig(RESULTS / f"{name}.svg", metadata={"Date": None})
