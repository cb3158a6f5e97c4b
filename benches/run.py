"""Measures what a request costs, beside yardsticks and TensorFlow Serving's recorded figures.

    python benches/run.py [--rounds N] [--rows TEXT] [--against COMMAND] [--quick]

Rows are those of the table that TensorFlow Serving was measured with (`REFERENCE`), and a few more. In each round all
servers take turns: the yardstick, servable, and with `--against` another `tensorflow_model_server`, given as a command
to which ports and `--model_config_file` are added. Yardsticks are a native gRPC echo that gets the same message, and
TensorFlow alone for models that take their time.

Needs Linux with two cores, TensorFlow, matplotlib (`pip install --group bench`) and, from Debian's packages,
`nghttp2-client` (h2load), `libgrpc++-dev`, `pkg-config` and `g++`.
Absolute figures move by up to 2x between machines and hours: quote the ratios of one run.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import (
    HERE,
    MODELS,
    OWN,
    PREDICT,
    Load,
    Seen,
    Server,
    all_cores,
    content,
    echo,
    h2load,
    keep,
    machine,
    median,
    picture,
    pin,
    pixels,
    predict_body,
    require,
    resident,
    serving,
    values,
)

SERVER_CORE, CLIENT_CORE = "0", "1"
IMAGE = (1, 224, 224, 3)
SERVABLE, ECHO, BARE, AGAINST = "servable", "echo", "TensorFlow alone", "against"
ENOUGH_FOR_P999 = 5000
MOST_MB = {"half_plus_two": 330, "resnet": 500}
"""Resident memory that is the goal. TensorFlow Serving had 330 and 708 MB."""


@dataclasses.dataclass(frozen=True)
class Reference:
    """TensorFlow Serving as it was recorded, with the yardstick beside it, and the goal that was set from that.

    Recorded 2026-11-22: TensorFlow Serving of mid-2026 with TensorFlow 2.21 (-O3, AVX2), `--grpc_max_threads=1000`, on
    two cores of an AMD EPYC. What counts on another machine are the ratios to the yardstick, where there is one.
    """

    requests_per_s: float
    cpu_us: float
    p50_us: float
    yardstick: Yardstick | None
    goal: float
    """Times TensorFlow Serving's rate, at least."""
    goal_cpu_us: float | None = None
    goal_p50_us: float | None = None


@dataclasses.dataclass(frozen=True)
class Yardstick:
    """The echo on the recorded machine."""

    requests_per_s: float
    cpu_us: float
    p50_us: float | None = None


@dataclasses.dataclass(frozen=True)
class Row:
    name: str
    load: Load
    yardstick: str | None
    """The row whose yardstick this is compared with; its own if it has that name."""
    reference: Reference | None
    one_core: bool = True
    """The server on one, the client on another; otherwise both on all."""


ECHO_MANY, ECHO_ONE = Yardstick(118_000, 5.5), Yardstick(43_800, 20.0, 20.0)
ECHO_IMAGE = Yardstick(5_960, 100.0)
GRPC_MANY, GRPC_ONE = "half_plus_two, gRPC, 8x8 in flight", "half_plus_two, gRPC, one in flight"
GRPC_BOTH = "half_plus_two, gRPC, 8x8 in flight, all cores"
GRPC_IMAGE = "image (602 kB), gRPC, 4 connections, all cores"
MOBILENET, RESNET = "MobileNetV2, gRPC, 4 connections, all cores", "ResNet-50, gRPC, 4 connections, all cores"


def all_rows(scale: float) -> list[Row]:
    three, rest_three = values(1, 2, 5), b'{"instances": [1.0, 2.0, 5.0]}'
    image = content(*IMAGE)
    image_json = json.dumps({"instances": nested(pixels(math.prod(IMAGE)), IMAGE)}).encode()

    def grpc(model: str, x: Mapping[str, object], connections: int, in_flight: int, count: int, answer: int) -> Load:
        return Load(PREDICT, predict_body(model, x=x), connections, in_flight, max(8, int(count * scale)), answer)

    def rest(model: str, body: bytes, connections: int, count: int) -> Load:
        return Load(f"/v1/models/{model}:predict", body, connections, 1, max(8, int(count * scale)), 20, is_rest=True)

    return [
        Row(
            GRPC_MANY,
            grpc("half_plus_two", three, 8, 8, 20_000, 40),
            GRPC_MANY,
            Reference(17_400, 52, 3_500, ECHO_MANY, 3.0, goal_cpu_us=17),
        ),
        Row(
            GRPC_ONE,
            grpc("half_plus_two", three, 1, 1, 6_000, 40),
            GRPC_ONE,
            Reference(13_300, 74, 70, ECHO_ONE, 2.0, goal_p50_us=40),
        ),
        Row(
            "half_plus_two, REST, 8 connections",
            rest("half_plus_two", rest_three, 8, 20_000),
            GRPC_MANY,
            Reference(14_500, 68, 520, ECHO_MANY, 4.0, goal_cpu_us=17),
        ),
        Row(
            "half_plus_two, REST, one connection",
            rest("half_plus_two", rest_three, 1, 6_000),
            GRPC_ONE,
            Reference(8_900, 108, 110, ECHO_ONE, 2.5),
        ),
        Row(GRPC_BOTH, grpc("half_plus_two", three, 8, 8, 20_000, 40), GRPC_BOTH, None, one_core=False),
        Row(
            "half_plus_two, REST, 8 connections, all cores",
            rest("half_plus_two", rest_three, 8, 20_000),
            GRPC_BOTH,
            None,
            one_core=False,
        ),
        Row(
            "image (602 kB), gRPC, one in flight",
            grpc("image_mean", image, 1, 1, 1_000, 20),
            "image (602 kB), gRPC, one in flight",
            None,
        ),
        Row(
            GRPC_IMAGE,
            grpc("image_mean", image, 4, 1, 2_000, 20),
            GRPC_IMAGE,
            Reference(3_640, 275, 720, ECHO_IMAGE, 1.4),
            one_core=False,
        ),
        Row(
            "image as JSON (1.4 MB), REST, 4 connections, all cores",
            rest("image_mean", image_json, 4, 400),
            GRPC_IMAGE,
            Reference(395, 4_275, 9_500, ECHO_IMAGE, 3.0),
            one_core=False,
        ),
        Row(
            MOBILENET,
            grpc("mobilenet", image, 4, 1, 200, 4_000),
            MOBILENET,
            Reference(178, 10_300, 20_000, None, 1.0),
            one_core=False,
        ),
        Row(
            RESNET,
            grpc("resnet", image, 4, 1, 60, 4_000),
            RESNET,
            Reference(42, 46_900, 94_000, None, 1.0),
            one_core=False,
        ),
    ]


def nested(numbers: list[float], shape: Sequence[int]) -> list[Any]:
    """Numbers as the lists of lists that JSON has for a tensor of this shape."""
    for size in reversed(shape[1:]):
        numbers = [numbers[at : at + size] for at in range(0, len(numbers), size)]  # type: ignore[misc]
    return numbers


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure servable beside yardsticks")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", default="", help="only rows whose names have this in them")
    parser.add_argument("--against", help="another tensorflow_model_server, with its flags")
    parser.add_argument("--quick", action="store_true", help="one short round: does it still work?")
    arguments = parser.parse_args()
    require("h2load", "g++", "pkg-config", "taskset", plots=True)
    rounds = 1 if arguments.quick else arguments.rounds
    rows = [row for row in all_rows(0.05 if arguments.quick else 1.0) if arguments.rows in row.name]
    programs = {SERVABLE: OWN} | ({AGAINST: tuple(shlex.split(arguments.against))} if arguments.against else {})
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        models = {"half_plus_two": MODELS / "half_plus_two"}
        for name in ("image_mean", "mobilenet", "resnet"):
            make_model(scratch, name)
            models[name] = scratch / name
        turns = measure(rows, programs, models, rounds, scratch)
        starts = {
            (name, model): [start_once(name, program, model, models[model], scratch) for _ in range(rounds)]
            for model in MOST_MB
            for name, program in programs.items()
        }
    report(rows, turns, starts, list(programs))
    return 0


def make_model(scratch: Path, name: str) -> None:
    command = [sys.executable, str(HERE / "reference_models.py"), str(scratch), name]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


Turns = dict[str, dict[str, list[Seen]]]
"""Of each row, by who was measured."""


def measure(
    rows: Sequence[Row], programs: Mapping[str, Sequence[str]], models: Mapping[str, Path], rounds: int, scratch: Path
) -> Turns:
    turns: Turns = {row.name: {} for row in rows}
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(echo(scratch))]
        servers += [stack.enter_context(serving(name, own, models, scratch)) for name, own in programs.items()]
        bare = {
            name: stack.enter_context(bare_tensorflow(models[model]))
            for name, model in ((MOBILENET, "mobilenet"), (RESNET, "resnet"))
            if name in turns
        }
        for number in range(rounds):
            for row in rows:
                seen = turns[row.name]
                if row.name in bare:
                    seen.setdefault(BARE, []).append(run_bare(bare[row.name], row.load))
                for server in servers:
                    if server.name != ECHO or (row.yardstick == row.name and row.name not in bare):
                        seen.setdefault(server.name, []).append(one_turn(row, server, scratch))
            print(f"round {number + 1} of {rounds} done", file=sys.stderr)
    return turns


def one_turn(row: Row, server: Server, scratch: Path) -> Seen:
    load = row.load
    if server.name == ECHO:
        load = dataclasses.replace(load, answer_bytes=len(load.body))
    pin(server.pid, SERVER_CORE if row.one_core else all_cores())
    return h2load(load, server, scratch, CLIENT_CORE if row.one_core else None)


@contextlib.contextmanager
def bare_tensorflow(model: Path) -> Iterator[subprocess.Popen[str]]:
    shape = ",".join(map(str, IMAGE))
    process = subprocess.Popen(
        [sys.executable, str(HERE / "bare_tensorflow.py"), str(model / "1"), shape],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        ask(process, 4, 4)
        yield process
    finally:
        process.kill()
        process.wait()


def run_bare(process: subprocess.Popen[str], load: Load) -> Seen:
    return ask(process, load.requests, load.connections)


def ask(process: subprocess.Popen[str], count: int, threads: int) -> Seen:
    assert process.stdin
    assert process.stdout
    process.stdin.write(f"{count} {threads}\n")
    process.stdin.flush()
    return Seen(**json.loads(process.stdout.readline()))


def start_once(name: str, program: Sequence[str], model: str, path: Path, scratch: Path) -> tuple[float, float]:
    """Seconds from exec until the model is AVAILABLE, and resident MB after some requests."""
    x, answer_bytes = (values(1, 2, 5), 40) if model == "half_plus_two" else (content(*IMAGE), 4_000)
    load = Load(PREDICT, predict_body(model, x=x), 1, 1, 16, answer_bytes)
    start = time.monotonic()
    with serving(name, program, {model: path}, scratch) as server:
        took = time.monotonic() - start
        h2load(load, server, scratch)
        return took, resident(server.pid)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """How a row stands: everything as a ratio, the goal's side first.

    Ratios to TensorFlow Serving are not measured but worked out: servable to the yardstick in this run, by TensorFlow
    Serving to the yardstick when it was recorded. They are only as good as the yardstick is for both machines.
    """

    of_yardstick: float | None
    """Rate to the yardstick's."""
    of_serving: float | None
    """Rate to TensorFlow Serving's, worked out."""
    missed: tuple[str, ...]


def verdict(row: Row, own: Seen, yardstick: Seen | None) -> Verdict:
    of_yardstick = own.requests_per_s / yardstick.requests_per_s if yardstick else None
    reference = row.reference
    if not reference or not yardstick or of_yardstick is None:
        return Verdict(of_yardstick, None, ())
    recorded = reference.yardstick
    if not recorded:  # no ratio to TensorFlow alone was recorded: to keep up with that is what can be asked
        missed: tuple[str, ...] = () if of_yardstick >= 0.95 else (f"{of_yardstick:.2f} of TensorFlow alone",)
        return Verdict(of_yardstick, None, missed)
    of_serving = of_yardstick * recorded.requests_per_s / reference.requests_per_s
    missed = () if of_serving >= reference.goal else (f"{of_serving:.1f} times instead of {reference.goal:g}",)
    if reference.goal_cpu_us:
        share, goal = own.cpu_us / yardstick.cpu_us, reference.goal_cpu_us / recorded.cpu_us
        missed += () if share <= goal else (f"CPU {share:.1f} times the echo's instead of {goal:.1f}",)
    if reference.goal_p50_us and recorded.p50_us:
        share, goal = own.p50_us / yardstick.p50_us, reference.goal_p50_us / recorded.p50_us
        missed += () if share <= goal else (f"p50 {share:.1f} times the echo's instead of {goal:.1f}",)
    return Verdict(of_yardstick, of_serving, missed)


def report(
    rows: Sequence[Row],
    turns: Turns,
    starts: Mapping[tuple[str, str], Sequence[tuple[float, float]]],
    names: Sequence[str],
) -> None:
    medians = {row: {name: median(seen) for name, seen in by_name.items()} for row, by_name in turns.items()}
    lines = [
        f"{machine()}. Medians of {len(next(iter(turns.values()))[SERVABLE])} interleaved rounds.",
        "",
        "| load | server | requests/s | CPU per request (user + system) | p50 | p99 | p99.9 |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        for name, seen in medians[row.name].items():
            p999 = f"{seen.p999_us:,.0f} µs" if row.load.requests >= ENOUGH_FOR_P999 else ""
            cpu = f"{seen.cpu_us:,.1f} µs ({seen.user_us:,.1f} + {seen.system_us:,.1f})"
            latency = f"{seen.p50_us:,.0f} µs | {seen.p99_us:,.0f} µs | {p999}"
            lines.append(f"| {row.name} | {name} | {seen.requests_per_s:,.0f} | {cpu} | {latency} |")
    lines += [
        "",
        "| load | rate to the yardstick's | TensorFlow Serving's, recorded | so to TensorFlow Serving's | goal | met |",
        "|---|---|---|---|---|---|",
    ]
    verdicts = {row.name: verdict(row, medians[row.name][SERVABLE], yardstick_of(row, medians)) for row in rows}
    for row in rows:
        lines.append(judged(row, verdicts[row.name]))
    if AGAINST in names:
        lines += [
            "",
            "| load | rate to the other server's | CPU to its | p50 to its | p99 to its |",
            "|---|---|---|---|---|",
        ]
        for row in rows:
            own, its = medians[row.name][SERVABLE], medians[row.name][AGAINST]
            lines.append(
                f"| {row.name} | {own.requests_per_s / its.requests_per_s:.2f} | {own.cpu_us / its.cpu_us:.2f} "
                f"| {own.p50_us / its.p50_us:.2f} | {own.p99_us / its.p99_us:.2f} |"
            )
    lines += ["", "| server | model | from exec to AVAILABLE | resident after some requests | goal | met |"]
    lines += ["|---|---|---|---|---|---|"]
    for (name, model), seen_starts in starts.items():
        took, megabytes = map(statistics.median, zip(*seen_starts, strict=True))
        most = MOST_MB[model]
        met = "yes" if megabytes <= most else "**no**"
        lines.append(f"| {name} | {model} | {took:.2f} s | {megabytes:.0f} MB | {most} MB | {met} |")
    keep(
        "run",
        "\n".join(lines),
        {
            "machine": machine(),
            "turns": {
                row: {name: [dataclasses.asdict(one) for one in seen] for name, seen in by_name.items()}
                for row, by_name in turns.items()
            },
            "starts": {f"{name}, {model}": list(seen) for (name, model), seen in starts.items()},
        },
    )
    draw([(row, verdicts[row.name]) for row in rows])


def yardstick_of(row: Row, medians: Mapping[str, Mapping[str, Seen]]) -> Seen | None:
    of_row = medians.get(row.yardstick or "", {})
    return of_row.get(ECHO) or of_row.get(BARE)


def judged(row: Row, verdict: Verdict) -> str:
    reference = row.reference
    recorded = reference.yardstick if reference else None
    cells = [
        row.name,
        f"{verdict.of_yardstick:.2f}" if verdict.of_yardstick is not None else "",
        f"{reference.requests_per_s / recorded.requests_per_s:.2f}" if reference and recorded else "",
        f"{verdict.of_serving:.1f}" if verdict.of_serving is not None else "",
        goal_of(reference) if reference else "",
        ("no: " + "; ".join(verdict.missed) if verdict.missed else "yes") if reference else "",
    ]
    return f"| {' | '.join(cells)} |"


def goal_of(reference: Reference) -> str:
    if not reference.yardstick:
        return "not behind TensorFlow alone (0.95)"
    parts = [f"{reference.goal:g} times"]
    if reference.goal_cpu_us:
        parts.append(f"CPU at most {reference.goal_cpu_us / reference.yardstick.cpu_us:.1f} times the echo's")
    if reference.goal_p50_us and reference.yardstick.p50_us:
        parts.append(f"p50 at most {reference.goal_p50_us / reference.yardstick.p50_us:.1f} times the echo's")
    return ", ".join(parts)


def draw(rows: Sequence[tuple[Row, Verdict]]) -> None:
    """Rates to the yardstick's: measured for servable, as recorded for TensorFlow Serving."""
    shown = [(row, verdict) for row, verdict in rows if verdict.of_yardstick is not None][::-1]
    with picture("run", 2) as panels:
        panel = panels[0]
        panels[1].set_visible(False)
        panel.set_position([0.45, 0.12, 0.5, 0.8])
        for at, (row, verdict) in enumerate(shown):
            panel.barh(at + 0.2, verdict.of_yardstick, 0.38, color="#0072b2", label="servable" if at == 0 else None)
            if row.reference and row.reference.yardstick:
                recorded = row.reference.requests_per_s / row.reference.yardstick.requests_per_s
                panel.barh(at - 0.2, recorded, 0.38, color="#d55e00")
        panel.set_yticks(range(len(shown)), [row.name for row, _ in shown])
        panel.set_xlabel("rate to the yardstick's (blue: servable, orange: TensorFlow Serving, recorded)")


if __name__ == "__main__":
    sys.exit(main())
