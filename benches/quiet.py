"""Measures what clients of one model feel while versions of another, large one come and go; and what memory that takes.

    python benches/quiet.py [--sizes MB,MB] [--swaps N] [--rate N] [--quick]

A client sends requests to half_plus_two at a fixed rate, whatever happens to the answers (open loop). Meanwhile a new
version of a large model is put into its folder, again and again: it is loaded, takes over, and the old one is unloaded.
The requests that were sent between the moment a version appeared and the moment the old one had gone are `during`, the
others `before` (the first version) and `after` (in between). `beside a loop` is the yardstick: nothing is loaded, but a
process computes at the low priority that loads have, which is the least that anything that takes a core does to others.
Needs Linux, `h2load` (Debian's nghttp2-client) and
TensorFlow, which writes the models.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from harness import GRPC_HEADERS, MODELS, PREDICT, framed, free_ports, is_open, keep, resident, running
from servable import engine

GRPC_PORT, REST_PORT = free_ports(2)
VARIABLE_MB = 16
PERCENTILES = (50.0, 99.0, 99.9)
SETTLE_S = 3.0
READY_WITHIN_S = 300.0
MEMORY_SWAPS = 50
LOAD_NICE = 10
POLL_S = 0.05
"""Between two questions for the states of versions."""

WRITE_MODEL = """
import sys
import tensorflow as tf

class Large(tf.Module):
    def __init__(self, count, size):
        super().__init__()
        self.weights = [tf.Variable(tf.random.stateless_uniform([size], [1, i]), name=f"w{i}") for i in range(count)]

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def __call__(self, x):
        return {"y": x + tf.add_n([weight[0] for weight in self.weights])}

folder, count, megabytes = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
model = Large(count, megabytes * 250_000)
tf.saved_model.save(model, folder, {"serving_default": model.__call__})
"""


@dataclasses.dataclass(frozen=True)
class Window:
    """A stretch of time, in seconds since the epoch."""

    begin: float
    end: float


@dataclasses.dataclass(frozen=True)
class Felt:
    """What clients felt: the number of requests, and latencies at `PERCENTILES` and at worst, in µs."""

    requests: int
    percentiles_us: tuple[float, ...]
    worst_us: float


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One size of the large model."""

    megabytes: int
    before: Felt
    during: Felt
    after: Felt
    beside: Felt
    loading_s: float
    """Median time from the appearance of a version to the end of the old one."""
    empty_mb: float
    """Resident memory without the large model."""
    resident_mb: tuple[float, ...]
    """The same with it: after the first load, and after each swap."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Latency and memory while large versions come and go")
    parser.add_argument("--sizes", default="100,1000", help="MB of weights")
    parser.add_argument("--swaps", type=int, default=8, help="new versions under load")
    parser.add_argument("--rate", type=int, default=1000, help="requests per second")
    parser.add_argument("--quick", action="store_true", help="one small swap: does it still work?")
    arguments = parser.parse_args()
    if not shutil.which("h2load"):
        print("missing: h2load. On Debian: apt-get install nghttp2-client")
        return 2
    sizes = [32] if arguments.quick else [int(size) for size in arguments.sizes.split(",")]
    swaps = 1 if arguments.quick else arguments.swaps
    outcomes = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as scratch:
            memory_swaps = 2 if arguments.quick else MEMORY_SWAPS
            outcomes.append(measure(Path(scratch), size, swaps, arguments.rate, memory_swaps))
    report(outcomes, arguments.rate)
    return 0


def measure(scratch: Path, megabytes: int, swaps: int, rate: int, memory_swaps: int) -> Outcome:
    source = scratch / "source"
    count = max(1, megabytes // VARIABLE_MB)
    subprocess.run(
        [sys.executable, "-c", WRITE_MODEL, str(source), str(count), str(min(megabytes, VARIABLE_MB))],
        check=True,
        stderr=subprocess.DEVNULL,
    )
    with serving(scratch) as (pid, base):
        empty_mb = resident(pid)
        versions = iter(range(1, 1_000_000))
        put(source, base, next(versions))
        memory = [resident(pid)]
        with clients(scratch, rate) as log:
            time.sleep(1.0)  # connections, first runs
            start = time.time()
            watch(4 * SETTLE_S)
            before = Window(start, time.time())
            during, after, beside = [], [], []
            for _ in range(swaps):
                during.append(put(source, base, next(versions)))
                memory.append(resident(pid))
                watch(SETTLE_S)
                after.append(Window(during[-1].end, time.time()))
                with computing():
                    begin = time.time()
                    watch(SETTLE_S)
                    beside.append(Window(begin, time.time()))
        latencies = read(log)
        for _ in range(memory_swaps - swaps):
            put(source, base, next(versions))
            memory.append(resident(pid))
    spans = sorted(window.end - window.begin for window in during)
    return Outcome(
        megabytes,
        felt(latencies, [before]),
        felt(latencies, during),
        felt(latencies, after),
        felt(latencies, beside),
        spans[len(spans) // 2],
        empty_mb,
        tuple(memory),
    )


@contextlib.contextmanager
def serving(scratch: Path) -> Iterator[tuple[int, Path]]:
    """A server of half_plus_two and of a large model, which has no version yet: its process, and the model's folder."""
    base = scratch / "large"
    base.mkdir()
    config = scratch / "models.config"
    config.write_text(
        "".join(
            f'model_config_list {{ config {{ name: "{name}" base_path: "{path}" model_platform: "tensorflow" }} }}\n'
            for name, path in (("half_plus_two", MODELS / "half_plus_two"), ("large", base))
        ).replace("}\nmodel_config_list {", "")
    )
    first = scratch / "first.config"
    first.write_text(
        f'model_config_list {{ config {{ name: "half_plus_two" base_path: "{MODELS / "half_plus_two"}" '
        'model_platform: "tensorflow" } }'
    )
    live = scratch / "live.config"
    shutil.copy(first, live)
    program = Path(sys.executable).with_name("tensorflow_model_server")
    command = [
        str(program),
        f"--port={GRPC_PORT}",
        f"--rest_api_port={REST_PORT}",
        f"--model_config_file={live}",
        "--model_config_file_poll_wait_seconds=1",
    ]
    with running(command, lambda: is_open(REST_PORT)) as process:
        subprocess.run(
            ["h2load", "--h1", "-n", "100", "-c", "1", f"http://127.0.0.1:{REST_PORT}/v1/models/half_plus_two"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        shutil.move(config, live)
        yield process.pid, base


@contextlib.contextmanager
def clients(scratch: Path, rate: int) -> Iterator[Path]:
    """Requests at a fixed rate, over four connections; the log has a line for each."""
    tensor = {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [{"size": 3}]}, "float_val": [1.0, 2.0, 5.0]}
    message = {"model_spec": {"name": "half_plus_two"}, "inputs": {"x": tensor}}
    body, log = scratch / "body", scratch / "log"
    body.write_bytes(framed(engine.encode_json("tensorflow.serving.PredictRequest", json.dumps(message))))
    connections = 4
    process = subprocess.Popen(
        [
            *("h2load", "-t", "1", "-c", str(connections), "-m", "64", f"--rps={rate // connections}", "-D", "3600"),
            *("-d", str(body), "--log-file", str(log), *GRPC_HEADERS, f"http://127.0.0.1:{GRPC_PORT}{PREDICT}"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield log
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def computing() -> Iterator[None]:
    """A process that keeps one core busy, with the priority of a load."""
    command = ["nice", "-n", str(LOAD_NICE), sys.executable, "-c", "while True: pass"]
    with subprocess.Popen(command) as process:
        try:
            yield
        finally:
            process.kill()


def put(source: Path, base: Path, version: int) -> Window:
    """Let a version appear, and wait until it serves and the one before has gone."""
    aside = base.parent / "incoming"
    shutil.copytree(source, aside, copy_function=link)
    begin = time.time()
    aside.rename(base / str(version))
    if version > 1:
        wait_for(lambda: states() == {version: "AVAILABLE", version - 1: "END"})
        shutil.rmtree(base / str(version - 1))
    else:
        wait_for(lambda: states() == {version: "AVAILABLE"})
    return Window(begin, time.time())


def link(source: str, target: str) -> None:
    """Versions share the bytes on disk: what is measured is loading, not copying."""
    Path(target).hardlink_to(source)


def states() -> dict[int, str]:
    """The state of the newest versions of the large model."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{REST_PORT}/v1/models/large", timeout=10) as answer:
            listed = json.loads(answer.read())["model_version_status"]
    except OSError:
        return {}
    return {int(version["version"]): version["state"] for version in listed[:2]}


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + READY_WITHIN_S
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"the large model did not get there: {states()}")
        time.sleep(POLL_S)


def watch(seconds: float) -> None:
    """Asks for states as often as while a version loads: asking is not what is to be seen in the difference."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        states()
        time.sleep(POLL_S)


def read(log: Path) -> list[tuple[float, float]]:
    """When each request was sent, in seconds since the epoch, and how long it took in µs. Fails if one failed."""
    lines = [line.split(b"\t") for line in log.read_bytes().splitlines() if line.count(b"\t") == 2]
    failed = [line for line in lines if line[1] != b"200"]
    if failed:
        raise SystemExit(f"{len(failed)} of {len(lines)} requests failed")
    return [(int(start) / 1e6, float(took)) for start, _, took in lines]


def felt(latencies: Sequence[tuple[float, float]], windows: Sequence[Window]) -> Felt:
    inside = sorted(took for start, took in latencies if any(window.begin <= start < window.end for window in windows))
    if not inside:
        raise SystemExit("no request was sent in time: the versions came and went too fast for this rate")
    ranks = [min(len(inside) - 1, int(len(inside) * percent / 100)) for percent in PERCENTILES]
    return Felt(len(inside), tuple(inside[rank] for rank in ranks), inside[-1])


def report(outcomes: Sequence[Outcome], rate: int) -> None:
    lines = [
        f"half_plus_two over gRPC, {rate:,} requests per second (open loop), while versions of a large model change",
        "",
        "| model | when | requests | p50 | p99 | p99.9 | worst | p99 to before |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for outcome in outcomes:
        rows = {
            "before": outcome.before,
            "during": outcome.during,
            "after": outcome.after,
            "beside a loop": outcome.beside,
        }
        for when, seen in rows.items():
            cells = " | ".join(f"{value:,.0f} µs" for value in (*seen.percentiles_us, seen.worst_us))
            ratio = seen.percentiles_us[1] / outcome.before.percentiles_us[1]
            lines.append(f"| {outcome.megabytes:,} MB | {when} | {seen.requests:,} | {cells} | {ratio:.2f} |")
    lines += ["", "| model | a change takes | resident without it | with it | after the last swap | growth |"]
    lines += ["|---|---|---|---|---|---|"]
    for outcome in outcomes:
        first, last = outcome.resident_mb[0], outcome.resident_mb[-1]
        weights = (first - outcome.empty_mb) / outcome.megabytes
        lines.append(
            f"| {outcome.megabytes:,} MB | {outcome.loading_s:.2f} s | {outcome.empty_mb:,.0f} MB | {first:,.0f} MB "
            f"({weights:.2f} times the weights) | {last:,.0f} MB after {len(outcome.resident_mb) - 1} "
            f"| {(last / first - 1) * 100:+.1f} % |"
        )
    table = "\n".join(lines)
    keep("quiet", table, [dataclasses.asdict(outcome) for outcome in outcomes])


if __name__ == "__main__":
    sys.exit(main())
