"""Measures how the cost of a request grows: with connections, with payload, with models, with rows.

    python benches/growth.py [--rounds N] [--quick]

What counts is the CPU time of the server, user and system, for each request, which does not depend on how fast clients
are. Sizes take turns within a round; figures are medians of the rounds. Payloads go to a model that adds numbers up,
beside a native gRPC echo that gets the same message; everything else goes to half_plus_two.

Needs what `run.py` needs.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import (
    COLOURS,
    HERE,
    MODELS,
    OWN,
    PREDICT,
    Load,
    Server,
    content,
    echo,
    h2load,
    keep,
    machine,
    picture,
    pixels,
    predict_body,
    require,
    resident,
    serving,
    values,
)

GRPC, REST, ECHO = "gRPC", "REST", "echo"
FLOAT_BYTES = 4
ROW_REQUEST_LIMIT, BYTES_PER_TURN = 4_000_000, 400_000_000


@dataclasses.dataclass(frozen=True)
class Point:
    """What a request cost: CPU time of the server in µs."""

    series: str
    size: float
    cpu_us: float


@dataclasses.dataclass(frozen=True)
class Start:
    """A server of so many models."""

    models: int
    start_s: float
    resident_mb: float


@dataclasses.dataclass(frozen=True)
class Growth:
    """One kind of growth."""

    name: str
    unit: str
    points: tuple[Point, ...]

    def of(self, series: str) -> list[Point]:
        return [point for point in self.points if point.series == series]


Send = Callable[[], float]
"""Sends a load and returns what a request cost the server."""


def main() -> int:
    parser = argparse.ArgumentParser(description="How cost grows")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round of small sizes: does it still work?")
    arguments = parser.parse_args()
    require("h2load", "g++", "pkg-config", "taskset", plots=True)
    quick = arguments.quick
    rounds = 1 if quick else arguments.rounds
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        scratch = Path(folder)
        command = [sys.executable, str(HERE / "reference_models.py"), str(scratch), "sum"]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        models = {"half_plus_two": MODELS / "half_plus_two", "sum": scratch / "sum"}
        own = stack.enter_context(serving("servable", OWN, models, scratch))
        yardstick = stack.enter_context(echo(scratch))
        each_kb = kilobytes_per_connection(own, 20 if quick else 2000)  # first: later there is memory to spare
        growths = [
            by_connections(own, [1, 20] if quick else [1, 10, 100, 500, 1000, 2000], rounds, scratch),
            by_payload(own, yardstick, [10**2, 10**5] if quick else sizes(10**2, 64 * 10**6), rounds, scratch),
            by_rows(own, [1, 100] if quick else sizes(1, 10**6), rounds, scratch),
        ]
        models_growth, starts = by_models([1, 10] if quick else [1, 10, 100, 1000], rounds, scratch)
    report([growths[0], growths[1], models_growth, growths[2]], starts, each_kb)
    return 0


def sizes(first: int, last: int) -> list[int]:
    """Powers of ten, and the last."""
    found = [first]
    while found[-1] * 10 < last:
        found.append(found[-1] * 10)
    return [*found, last]


def in_turns(sends: Mapping[tuple[str, float], Send], rounds: int, what: str) -> tuple[Point, ...]:
    seen: dict[tuple[str, float], list[float]] = {key: [] for key in sends}
    for number in range(rounds):
        for key, send in sends.items():
            seen[key].append(send())
        print(f"{what}: round {number + 1} of {rounds} done", file=sys.stderr)
    return tuple(Point(*key, statistics.median(costs)) for key, costs in seen.items())


def sending(load: Load, server: Server, scratch: Path) -> Send:
    return lambda: h2load(load, server, scratch).cpu_us


def by_connections(own: Server, counts: Iterable[int], rounds: int, scratch: Path) -> Growth:
    grpc_body, rest_body = predict_body("half_plus_two", x=values(1, 2, 5)), b'{"instances": [1.0, 2.0, 5.0]}'
    sends: dict[tuple[str, float], Send] = {}
    for count in counts:
        requests = max(10_000, 10 * count)
        grpc = Load(PREDICT, grpc_body, count, 1, requests, 40)
        rest = Load("/v1/models/half_plus_two:predict", rest_body, count, 1, requests, 20, is_rest=True)
        sends[GRPC, count], sends[REST, count] = sending(grpc, own, scratch), sending(rest, own, scratch)
    return Growth("connections", "connections, one request at a time on each", in_turns(sends, rounds, "connections"))


def by_payload(own: Server, yardstick: Server, counts: Iterable[int], rounds: int, scratch: Path) -> Growth:
    sends: dict[tuple[str, float], Send] = {}
    for size in counts:
        numbers = size // FLOAT_BYTES
        body = predict_body("sum", x=content(numbers))
        text = json.dumps({"inputs": pixels(numbers)}).encode()
        requests = max(4, min(5000, BYTES_PER_TURN // len(text)))
        grpc = Load(PREDICT, body, 1, 1, requests, 20)
        rest = Load("/v1/models/sum:predict", text, 1, 1, requests, 10, is_rest=True)
        sends[GRPC, size], sends[REST, size] = sending(grpc, own, scratch), sending(rest, own, scratch)
        sends[ECHO, size] = sending(dataclasses.replace(grpc, answer_bytes=len(body)), yardstick, scratch)
    return Growth("payload", "bytes of floats in a request", in_turns(sends, rounds, "payload"))


def by_rows(own: Server, counts: Iterable[int], rounds: int, scratch: Path) -> Growth:
    sends: dict[tuple[str, float], Send] = {}
    for rows in counts:
        numbers = pixels(rows)
        body = predict_body("half_plus_two", x=values(*numbers))
        text = json.dumps({"instances": numbers}).encode()
        requests = max(4, min(5000, ROW_REQUEST_LIMIT // rows))
        grpc = Load(PREDICT, body, 1, 1, requests, FLOAT_BYTES * rows)
        rest = Load("/v1/models/half_plus_two:predict", text, 1, 1, requests, rows, is_rest=True)
        sends[GRPC, rows], sends[REST, rows] = sending(grpc, own, scratch), sending(rest, own, scratch)
    return Growth("rows", "rows in a request", in_turns(sends, rounds, "rows"))


def by_models(counts: Sequence[int], rounds: int, scratch: Path) -> tuple[Growth, list[Start]]:
    """All servers run at once, so that they can take turns."""
    starts: list[Start] = []
    sends: dict[tuple[str, float], Send] = {}
    with contextlib.ExitStack() as stack:
        for count in counts:
            models = {f"model_{number}": scratch / f"of_{count}" / f"model_{number}" for number in range(count)}
            for base in models.values():
                shutil.copytree(MODELS / "half_plus_two", base, copy_function=os.link)
            begin = time.monotonic()
            server = stack.enter_context(serving(f"of_{count}", OWN, models, scratch / f"of_{count}"))
            starts.append(Start(count, time.monotonic() - begin, resident(server.pid)))
            last = f"model_{count - 1}"
            grpc = Load(PREDICT, predict_body(last, x=values(1, 2, 5)), 1, 1, 5000, 40)
            body = b'{"instances": [1.0, 2.0, 5.0]}'
            rest = Load(f"/v1/models/{last}:predict", body, 1, 1, 5000, 20, is_rest=True)
            sends[GRPC, count], sends[REST, count] = sending(grpc, server, scratch), sending(rest, server, scratch)
        return Growth("models", "models of the server", in_turns(sends, rounds, "models")), starts


def kilobytes_per_connection(server: Server, count: int) -> float:
    """What a connection takes that has been answered and is kept open."""
    request = b"GET /v1/models/half_plus_two HTTP/1.1\r\nHost: x\r\n\r\n"
    before = resident(server.pid)
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", server.rest_port)))
            connection.sendall(request)
            if not connection.recv(10_000).startswith(b"HTTP/1.1 200"):
                raise SystemExit("a connection was not answered")
        return (resident(server.pid) - before) * 1024 / count


def report(growths: Sequence[Growth], starts: Sequence[Start], each_kb: float) -> None:
    lines = [f"{machine()}. CPU time of the server for each request."]
    for growth in growths:
        series = list(dict.fromkeys(point.series for point in growth.points))
        lines += ["", f"| {growth.unit} | {' | '.join(series)} |", "|---|" + "---|" * len(series)]
        for size in dict.fromkeys(point.size for point in growth.points):
            costs = (f"{point.cpu_us:,.1f} µs" for point in growth.points if point.size == size)
            lines.append(f"| {size:,.0f} | {' | '.join(costs)} |")
    lines += ["", "| models | from exec to AVAILABLE | resident |", "|---|---|---|"]
    lines += [f"| {start.models:,} | {start.start_s:.2f} s | {start.resident_mb:,.0f} MB |" for start in starts]
    lines += ["", f"A REST connection that is kept open takes {each_kb:,.1f} kB."]
    figures = {
        "growths": [dataclasses.asdict(growth) for growth in growths],
        "starts": [dataclasses.asdict(start) for start in starts],
        "kilobytes_per_connection": each_kb,
    }
    keep("growth", "\n".join(lines), figures)
    with picture("growth", 2, 2) as panels:
        for panel, growth in zip(panels, growths, strict=True):
            draw(panel, growth)


def draw(panel: Any, growth: Growth) -> None:
    for series, colour in zip(dict.fromkeys(point.series for point in growth.points), COLOURS, strict=False):
        points = growth.of(series)
        costs = [point.cpu_us for point in points]
        panel.plot([point.size for point in points], costs, color=colour, marker="o", markersize=4, label=series)
    panel.set(xlabel=growth.unit, ylabel="CPU per request (µs)", xscale="log", yscale="log")
    panel.set_ylim(bottom=min(10.0, *(point.cpu_us for point in growth.points)))
    panel.legend(frameon=False, fontsize=8)


if __name__ == "__main__":
    sys.exit(main())
