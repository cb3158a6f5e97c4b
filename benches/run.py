"""Measures servable beside a native gRPC echo, in interleaved rounds, and prints the table.

    python benches/run.py [--rounds N] [--quick]

Needs Linux with two cores and, from Debian's packages, `nghttp2-client` (h2load), `libgrpc++-dev`, `pkg-config` and
`g++`.
Absolute figures move by up to 2x between machines and hours: quote the ratios of one run.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import re
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from servable import engine

HERE = Path(__file__).resolve().parent
MODELS = HERE.parent / "python" / "servable" / "demo" / "models"
RESULTS = HERE / "results"
ECHO_PORT, GRPC_PORT, REST_PORT = 19200, 19300, 19301
SERVER_CORE, CLIENT_CORE = "0", "1"
TICKS = os.sysconf("SC_CLK_TCK")
READY_WITHIN_S = 300.0

GRPC_HEADERS = ["-H", "content-type: application/grpc", "-H", "te: trailers"]
PREDICT = "/tensorflow.serving.PredictionService/Predict"


@dataclasses.dataclass(frozen=True)
class Load:
    """A way of sending requests."""

    name: str
    body: bytes
    url: str
    arguments: tuple[str, ...]
    requests: int
    answer_bytes: int
    """DATA bytes of one full answer: a refused gRPC call is HTTP 200 too."""


@dataclasses.dataclass(frozen=True)
class Round:
    """What one round of a load saw."""

    requests_per_s: float
    cpu_us: float
    p50_us: float
    p99_us: float


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure servable beside a native gRPC echo")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one short round: does it still work?")
    arguments = parser.parse_args()
    rounds = 1 if arguments.quick else arguments.rounds
    missing = [tool for tool in ("h2load", "g++", "pkg-config", "taskset") if not shutil.which(tool)]
    if missing:
        print(f"missing: {', '.join(missing)}. On Debian: apt-get install nghttp2-client libgrpc++-dev pkg-config g++")
        return 2
    with tempfile.TemporaryDirectory() as scratch:
        return measure(Path(scratch), rounds, 2_000 if arguments.quick else 20_000)


def measure(scratch: Path, rounds: int, requests: int) -> int:
    loads = all_loads(requests)
    seen: dict[str, list[Round]] = {load.name: [] for load in loads}
    starts = [start_once() for _ in range(rounds)]
    with echo_server(scratch) as echo, servable_server() as server:
        resident_mb = 0.0
        for number in range(rounds):
            for load in loads:
                process = echo if "echo" in load.name else server
                seen[load.name].append(one_round(load, process, scratch))
            resident_mb = max(resident_mb, resident(server.pid))
            print(f"round {number + 1} of {rounds} done", file=sys.stderr)
    report(loads, seen, starts, resident_mb)
    return 0


def all_loads(requests: int) -> list[Load]:
    tensor = {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [{"size": 3}]}, "float_val": [1.0, 2.0, 5.0]}
    message = {"model_spec": {"name": "half_plus_two"}, "inputs": {"x": tensor}}
    predict = framed(engine.encode_json("tensorflow.serving.PredictRequest", json.dumps(message)))
    rest = b'{"instances": [1.0, 2.0, 5.0]}'
    grpc_url, rest_url = f"http://127.0.0.1:{GRPC_PORT}", f"http://127.0.0.1:{REST_PORT}"
    grpc_answer, rest_answer = 40, 30  # at least; a refused call has no data at all
    many, one = ("-c", "8", "-m", "8"), ("-c", "1", "-m", "1")
    few = requests // 4
    return [
        Load(
            "echo, gRPC, 8x8 in flight",
            predict,
            f"http://127.0.0.1:{ECHO_PORT}{PREDICT}",
            (*GRPC_HEADERS, *many),
            requests,
            len(predict),
        ),
        Load(
            "half_plus_two, gRPC, 8x8 in flight",
            predict,
            grpc_url + PREDICT,
            (*GRPC_HEADERS, *many),
            requests,
            grpc_answer,
        ),
        Load(
            "echo, gRPC, one at a time",
            predict,
            f"http://127.0.0.1:{ECHO_PORT}{PREDICT}",
            (*GRPC_HEADERS, *one),
            few,
            len(predict),
        ),
        Load(
            "half_plus_two, gRPC, one at a time", predict, grpc_url + PREDICT, (*GRPC_HEADERS, *one), few, grpc_answer
        ),
        Load(
            "half_plus_two, REST, 8 connections",
            rest,
            rest_url + "/v1/models/half_plus_two:predict",
            ("--h1", "-c", "8"),
            requests,
            rest_answer,
        ),
        Load(
            "half_plus_two, REST, one at a time",
            rest,
            rest_url + "/v1/models/half_plus_two:predict",
            ("--h1", "-c", "1"),
            few,
            rest_answer,
        ),
    ]


def framed(message: bytes) -> bytes:
    """A message as gRPC frames it: not compressed, length, bytes."""
    return struct.pack(">BI", 0, len(message)) + message


def one_round(load: Load, server: subprocess.Popen[bytes], scratch: Path) -> Round:
    body, log = scratch / "body", scratch / "log"
    body.write_bytes(load.body)
    log.unlink(missing_ok=True)
    command = [
        "taskset",
        "-c",
        CLIENT_CORE,
        "h2load",
        "-t",
        "1",
        "-n",
        str(load.requests),
        "-d",
        str(body),
        "--log-file",
        str(log),
        *load.arguments,
        load.url,
    ]
    run_load([*command[:7], "1000", *command[8:]], load, count=1000)  # warm
    log.unlink(missing_ok=True)
    before = cpu_seconds(server.pid)
    output = run_load(command, load, load.requests)
    cpu = cpu_seconds(server.pid) - before
    latencies = sorted(int(line.split(b"\t")[2]) for line in log.read_bytes().splitlines())
    rate = re.search(r"finished in ([\d.]+)(m?s), ([\d.]+) req/s", output)
    assert rate, output
    return Round(
        requests_per_s=float(rate[3]),
        cpu_us=cpu / load.requests * 1e6,
        p50_us=latencies[len(latencies) // 2],
        p99_us=latencies[len(latencies) * 99 // 100],
    )


def run_load(command: list[str], load: Load, count: int) -> str:
    """h2load's output; fails unless every request got a full answer."""
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    good = re.search(r"(\d+) 2xx", output)
    data = re.search(r"\((\d+)\) data", output)
    if not good or int(good[1]) != count or not data or int(data[1]) < count * load.answer_bytes:
        raise SystemExit(f"{load.name}: not every request was answered\n{output}")
    return output


def cpu_seconds(pid: int) -> float:
    """User and system time of all threads of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def resident(pid: int) -> float:
    """Resident memory in MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found
    return int(found[1]) / 1024


@contextlib.contextmanager
def running(command: list[str], is_ready: Callable[[], bool]) -> Iterator[subprocess.Popen[bytes]]:
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


def echo_server(scratch: Path) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    binary = scratch / "grpc_echo"
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "grpc++"], check=True, capture_output=True, text=True
    ).stdout
    subprocess.run(
        ["g++", "-O2", "-std=c++17", str(HERE / "grpc_echo.cc"), "-o", str(binary), *flags.split()], check=True
    )
    return running(["taskset", "-c", SERVER_CORE, str(binary), str(ECHO_PORT)], lambda: is_open(ECHO_PORT))


@contextlib.contextmanager
def servable_server() -> Iterator[subprocess.Popen[bytes]]:
    """The server, moved to its core once it is up: it starts as it would without being measured."""
    with running(server_command(), is_available) as process:
        subprocess.run(["taskset", "-apc", SERVER_CORE, str(process.pid)], check=True, stdout=subprocess.DEVNULL)
        yield process


def server_command() -> list[str]:
    program = Path(sys.executable).with_name("tensorflow_model_server")
    return [
        str(program),
        f"--port={GRPC_PORT}",
        f"--rest_api_port={REST_PORT}",
        "--model_name=half_plus_two",
        f"--model_base_path={MODELS / 'half_plus_two'}",
    ]


def start_once() -> float:
    """Seconds from exec until the model is AVAILABLE."""
    start = time.monotonic()
    with running(server_command(), is_available):
        return time.monotonic() - start


def is_open(port: int) -> bool:
    with contextlib.closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def is_available(rest_port: int = REST_PORT, model: str = "half_plus_two") -> bool:
    if not is_open(rest_port):
        return False
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{rest_port}/v1/models/{model}", timeout=5) as answer:
            return b"AVAILABLE" in answer.read()
    except OSError:
        return False


def report(loads: list[Load], seen: dict[str, list[Round]], starts: list[float], resident_mb: float) -> None:
    medians = {
        name: Round(*map(statistics.median, zip(*map(dataclasses.astuple, rounds), strict=True)))
        for name, rounds in seen.items()
    }
    lines = [
        "| load, server on one core | requests/s | CPU per request | to echo's CPU | p50 | p99 |",
        "|---|---|---|---|---|---|",
    ]
    for load in loads:
        own = medians[load.name]
        echo = medians["echo, gRPC, one at a time" if "one at a time" in load.name else "echo, gRPC, 8x8 in flight"]
        lines.append(
            f"| {load.name} | {own.requests_per_s:,.0f} | {own.cpu_us:.1f} µs | {own.cpu_us / echo.cpu_us:.2f} "
            f"| {own.p50_us:,.0f} µs | {own.p99_us:,.0f} µs |"
        )
    lines += [
        "",
        f"From exec to AVAILABLE: {statistics.median(starts):.2f} s (median of {len(starts)}). "
        f"Resident after the load: {resident_mb:.0f} MB.",
    ]
    table = "\n".join(lines)
    keep(
        "bench",
        table,
        {
            "loads": {name: [dataclasses.asdict(one) for one in rounds] for name, rounds in seen.items()},
            "start_s": starts,
            "resident_mb": resident_mb,
        },
    )


def keep(name: str, table: str, figures: object) -> None:
    """Print a table, and keep it and what it was made of."""
    print(table)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(table + "\n")
    (RESULTS / f"{name}.json").write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    sys.exit(main())
