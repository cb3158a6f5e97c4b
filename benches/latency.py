"""Measures whether latency is even: at half of what a server can do, and while its control plane works.

    python benches/latency.py [--rounds N] [--seconds S] [--models N] [--quick]

Requests for half_plus_two come over gRPC at random times (Poisson), whatever happens to the answers (open loop), and
their latency counts from when they were due. First at half of the greatest rate, beside a native gRPC echo at the same
rate. Then, at a fixed rate, to a server of many models: left alone; while it looks for versions every second; while its
metrics are read every second; while its configuration is loaded anew every second.

Needs what `run.py` needs, and grpcio.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
from harness import (
    COLOURS,
    MODELS,
    OWN,
    PREDICT,
    Load,
    Server,
    all_cores,
    echo,
    h2load,
    keep,
    machine,
    open_loop_client,
    percentile,
    picture,
    pin,
    predict_body,
    require,
    schedule,
    serving,
    values,
)
from servable import engine

RELOAD = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"
ANSWER_BYTES = 40
CONNECTIONS = 8
SHARE = 0.5
EVEN = 4.0
"""p99.9 may be so many times p50."""
UNSEEN = 1.2
"""p99 may be so many times that of the server that is left alone."""
STEADY_RATE = 1000.0
WARM_S = 1.0
PERCENTILES = (50.0, 90.0, 99.0, 99.9, 99.99)
PLACES = {"one core": ("0", "1"), "all cores": (all_cores(), all_cores())}
"""Where the server runs, and the client."""


@dataclasses.dataclass(frozen=True)
class Felt:
    """What clients felt in all rounds together. Latencies are at `PERCENTILES`, in µs."""

    requests: int
    latencies_us: tuple[float, ...]
    late_us: tuple[float, ...]
    """How far the client was behind its own schedule, which is part of the latency."""

    def at(self, percent: float) -> float:
        return self.latencies_us[PERCENTILES.index(percent)]


@dataclasses.dataclass(frozen=True)
class Half:
    """A server at half of the greatest rate."""

    place: str
    server: str
    requests_per_s: float
    felt: Felt


@dataclasses.dataclass(frozen=True)
class Client:
    """What sends the requests."""

    program: Path
    body: Path

    def send(self, server: Server, requests_per_s: float, seconds: float, seed: int, cores: str) -> list[list[int]]:
        """When each request that counts was due, sent and answered, in µs, and whether the answer was good."""
        times = schedule(requests_per_s, WARM_S + seconds, "poisson", seed)
        command = [str(self.program), str(server.grpc_port), PREDICT, str(self.body), str(ANSWER_BYTES)]
        output = subprocess.run(
            ["taskset", "-c", cores, *command, str(CONNECTIONS)],
            check=True,
            input="\n".join(str(int(due * 1e6)) for due in times),
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
        sent = [[int(field) for field in line.split()] for line in output.splitlines()]
        if not all(is_good for *_, is_good in sent):
            raise SystemExit(f"{server.name}: not every request was answered")
        return [request for request in sent if request[0] >= WARM_S * 1e6]


def main() -> int:
    parser = argparse.ArgumentParser(description="Is latency even?")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0, help="of one turn")
    parser.add_argument("--models", type=int, default=1000, help="of the server whose control plane works")
    parser.add_argument("--quick", action="store_true", help="one short round: does it still work?")
    arguments = parser.parse_args()
    require("h2load", "g++", "pkg-config", "taskset", plots=True)
    rounds, seconds, models = arguments.rounds, arguments.seconds, arguments.models
    if arguments.quick:
        rounds, seconds, models = 1, 1.0, 20
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        client = Client(open_loop_client(scratch), scratch / "request")
        halves = at_half(client, rounds, seconds, scratch)
        phases = while_controlled(client, rounds, seconds, models, scratch)
    report(halves, phases, rounds, seconds, models)
    return 0


def at_half(client: Client, rounds: int, seconds: float, scratch: Path) -> list[Half]:
    body = predict_body("half_plus_two", x=values(1, 2, 5))
    client.body.write_bytes(body)
    load = Load(PREDICT, body, CONNECTIONS, 8, 20_000, ANSWER_BYTES)
    halves = []
    for place, (server_cores, client_cores) in PLACES.items():
        with contextlib.ExitStack() as stack:
            # Started where it runs, as in a container with so many cores: it has a network thread for each.
            program = ("taskset", "-c", server_cores, *OWN)
            own = stack.enter_context(
                serving("servable", program, {"half_plus_two": MODELS / "half_plus_two"}, scratch)
            )
            servers = [own, stack.enter_context(echo(scratch))]
            for server in servers:
                pin(server.pid, server_cores)
            greatest = statistics.median(
                h2load(load, own, scratch, client_cores).requests_per_s for _ in range(min(rounds, 3))
            )
            rate = SHARE * greatest
            seen: dict[str, list[list[int]]] = {server.name: [] for server in servers}
            for number in range(rounds):
                for server in servers:
                    seen[server.name] += client.send(server, rate, seconds, number, client_cores)
            halves += [Half(place, name, rate, felt(requests)) for name, requests in seen.items()]
            print(f"{place}: done", file=sys.stderr)
    return halves


def while_controlled(client: Client, rounds: int, seconds: float, count: int, scratch: Path) -> dict[str, Felt]:
    """Two servers, of which one looks for versions all the time, so that phases can take turns."""
    models = {f"model_{number}": scratch / "models" / f"model_{number}" for number in range(count)}
    for base in models.values():
        shutil.copytree(MODELS / "half_plus_two", base, copy_function=os.link)
    client.body.write_bytes(predict_body("model_0", x=values(1, 2, 5)))
    with contextlib.ExitStack() as stack:
        still = stack.enter_context(serving("still", OWN, models, scratch, ["--file_system_poll_wait_seconds=0"]))
        polling = stack.enter_context(serving("polling", OWN, models, scratch, ["--file_system_poll_wait_seconds=1"]))
        channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{still.grpc_port}"))
        phases: dict[str, tuple[Server, Callable[[], None] | None]] = {
            "left alone": (still, None),
            "looking for versions": (polling, None),
            "metrics are read": (still, lambda: read_metrics(still)),
            "configuration is loaded": (still, lambda: reload(channel, models)),
        }
        seen: dict[str, list[list[int]]] = {name: [] for name in phases}
        for number in range(rounds):
            for name, (server, work) in phases.items():
                with each_second(work):
                    seen[name] += client.send(server, STEADY_RATE, seconds, number, all_cores())
            print(f"control plane: round {number + 1} of {rounds} done", file=sys.stderr)
    return {name: felt(requests) for name, requests in seen.items()}


@contextlib.contextmanager
def each_second(work: Callable[[], None] | None) -> Iterator[None]:
    """Work that is done each second meanwhile. Fails if it failed."""
    if not work:
        yield
        return
    ended = threading.Event()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            while not ended.wait(1.0):
                work()
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    if failures:
        raise failures[0]


def read_metrics(server: Server) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.rest_port}/metrics", timeout=60) as answer:
        answer.read()


def reload(channel: grpc.Channel, models: Mapping[str, Path]) -> None:
    entries = [{"name": name, "base_path": str(base), "model_platform": "tensorflow"} for name, base in models.items()]
    message = json.dumps({"config": {"model_config_list": {"config": entries}}})
    request = engine.encode_json("tensorflow.serving.ReloadConfigRequest", message)
    call: Callable[..., bytes] = channel.unary_unary(RELOAD)
    call(request, timeout=60)


def felt(requests: Sequence[Sequence[int]]) -> Felt:
    latencies = sorted(answered - due for due, _, answered, _ in requests)
    late = sorted(sent - due for due, sent, _, _ in requests)
    return Felt(
        len(requests),
        tuple(percentile(latencies, percent) for percent in PERCENTILES),
        tuple(percentile(late, percent) for percent in PERCENTILES),
    )


def report(halves: Sequence[Half], phases: Mapping[str, Felt], rounds: int, seconds: float, models: int) -> None:
    turns = f"{rounds} interleaved turns of {seconds:g} s each"
    lines = [
        f"{machine()}. half_plus_two over gRPC, arrivals at random, {turns}.",
        "",
        f"At {SHARE:.0%} of the greatest rate; p99.9 is to be at most {EVEN:g} times p50:",
        "",
        "| server on | | requests/s | p50 | p99 | p99.9 | p99.9 to p50 | the client was late, p99.9 | even |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for half in halves:
        seen = half.felt
        uneven = seen.at(99.9) / seen.at(50)
        late = seen.late_us[PERCENTILES.index(99.9)]
        is_even = ("yes" if uneven <= EVEN else "**no**") if half.server != "echo" else ""
        latencies = " | ".join(f"{seen.at(percent):,.0f} µs" for percent in (50, 99, 99.9))
        lines.append(
            f"| {half.place} | {half.server} | {half.requests_per_s:,.0f} | {latencies} "
            f"| {uneven:.1f} | {late:,.0f} µs | {is_even} |"
        )
    lines += [
        "",
        f"{models:,} models, {STEADY_RATE:,.0f} requests per second, all cores; each second the control plane works. "
        f"p99 is to be at most {UNSEEN:g} times that of the server left alone:",
        "",
        "| meanwhile | requests | p50 | p99 | p99.9 | p99 to left alone | unseen |",
        "|---|---|---|---|---|---|---|",
    ]
    alone = phases["left alone"]
    for name, seen in phases.items():
        ratio = seen.at(99) / alone.at(99)
        lines.append(
            f"| {name} | {seen.requests:,} | {seen.at(50):,.0f} µs | {seen.at(99):,.0f} µs | {seen.at(99.9):,.0f} µs "
            f"| {ratio:.2f} | {'yes' if ratio <= UNSEEN else '**no**'} |"
        )
    figures = {
        "halves": [dataclasses.asdict(half) for half in halves],
        "phases": {name: dataclasses.asdict(seen) for name, seen in phases.items()},
    }
    keep("latency", "\n".join(lines), figures)
    with picture("latency", 2) as panels:
        draw(panels[0], {f"{half.server}, {half.place}": half.felt for half in halves}, f"at {SHARE:.0%} of capacity")
        draw(panels[1], phases, f"{models:,} models, the control plane at work")


def draw(panel: Any, curves: Mapping[str, Felt], title: str) -> None:
    """Latency by percentile, the rare to the right."""
    places = range(len(PERCENTILES))
    for (name, seen), colour in zip(curves.items(), COLOURS, strict=False):
        panel.plot(places, seen.latencies_us, color=colour, marker="o", markersize=4, label=name)
    panel.set(title=title, yscale="log", ylabel="latency (µs)")
    panel.set_xticks(places, [f"p{percent:g}" for percent in PERCENTILES])
    panel.legend(frameon=False, fontsize=8)


if __name__ == "__main__":
    sys.exit(main())
