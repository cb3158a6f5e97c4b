"""Measures what batching of requests gains and costs: throughput and latency, beside a server without it.

    python benches/batching.py [--models NAME,NAME] [--rounds N] [--seconds S] [--arrivals even|poisson]
                               [--cores LIST] [--against COMMAND] [--quick]

Each server of `candidates` serves the same model, and they take turns. Closed loop: one request in flight, and then
many, which gives the greatest rate. Open loop: shares of the rate that `self-tuned` reached, the same for all, and
latency counted from the time at which a request was due. Needs Linux, `g++`, TensorFlow, which writes the models, and
matplotlib (`pip install --group bench`), which draws the curves.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import dataclasses
import importlib.util
import itertools
import json
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from harness import HERE, PREDICT, RESULTS, framed, free_ports, is_available, keep, running, schedule
from servable import engine

SLO_MS = 50
UNBATCHED, SELF_TUNED, FIXED = "unbatched", "self-tuned", "fixed"
FIXED_PARAMETERS = """
max_batch_size { value: 64 }
batch_timeout_micros { value: 1000 }
num_batch_threads { value: 2 }
max_enqueued_batches { value: 1000 }
"""
"""What a user of TensorFlow Serving has, who set it once for all models. The queue is long: nothing is refused."""
SHARES = (0.2, 0.4, 0.6, 0.8, 0.9)
SLO_SHARE = 0.8
CONNECTIONS = 8
ENOUGH_REQUESTS, LONGEST_TURN_S = 200, 20.0
"""A turn at a low rate is longer, up to this: p99 of a few requests is that of one."""
WARM_S = 1.0
"""Of each turn, and not counted."""
NOISE = 0.05
"""Who is no farther behind is not behind. Chosen, not measured: look at the single turns in the JSON."""


@dataclasses.dataclass(frozen=True)
class Model:
    """A model and the request that is sent to it: one row."""

    name: str
    title: str
    input: Mapping[str, object]
    outputs: int
    """Floats in an answer."""


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A server, and how it is told to batch."""

    name: str
    program: tuple[str, ...]
    flags: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Closed:
    """So many requests in flight."""

    connections: int
    in_flight: int


@dataclasses.dataclass(frozen=True)
class Open:
    """A share of the greatest rate, whatever happens to the answers."""

    share: float
    requests_per_s: float


Load = Closed | Open
ALONE, SATURATED = Closed(1, 1), Closed(CONNECTIONS, 64)


@dataclasses.dataclass(frozen=True)
class Seen:
    """What one turn saw. Latencies are those of good answers."""

    requests_per_s: float
    p50_us: float
    p99_us: float
    sent_late_p99_us: float
    """How far the client was behind its own schedule, which is part of the latency."""
    failures: int


@dataclasses.dataclass(frozen=True)
class Row:
    """The median turn of a candidate under a load."""

    model: str
    candidate: str
    load: Load
    seen: Seen
    turns: tuple[Seen, ...]


@dataclasses.dataclass(frozen=True)
class Goal:
    text: str
    figure: str
    is_met: bool


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long, how often and how to measure."""

    rounds: int
    seconds: float
    shares: Sequence[float]
    arrivals: str
    cores: str | None


def main() -> int:
    parser = argparse.ArgumentParser(description="Throughput and latency with batching and without")
    parser.add_argument("--models", default="mlp,resnet,text")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of one turn, at least")
    parser.add_argument("--arrivals", choices=("even", "poisson"), default="poisson", help="in the open loop")
    parser.add_argument("--cores", help="of the servers, as taskset takes them; otherwise all")
    parser.add_argument("--against", help="another tensorflow_model_server, with its flags, given the fixed parameters")
    parser.add_argument("--quick", action="store_true", help="one short round of one model: does it still work?")
    arguments = parser.parse_args()
    if not shutil.which("g++") or not importlib.util.find_spec("matplotlib"):
        print("missing: g++ (on Debian: apt-get install g++) or matplotlib (pip install --group bench)")
        return 2
    plan = Plan(arguments.rounds, arguments.seconds, SHARES, arguments.arrivals, arguments.cores)
    names = arguments.models.split(",")
    if arguments.quick:
        plan, names = dataclasses.replace(plan, rounds=1, seconds=0.5, shares=(0.2, SLO_SHARE)), ["mlp"]
    models = [model for model in all_models() if model.name in names]
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        client = scratch / "grpc_load"
        source = HERE / "grpc_load.cc"
        subprocess.run(["g++", "-O2", "-std=c++17", str(source), "-o", str(client)], check=True)
        parameters = scratch / "batching.config"
        parameters.write_text(FIXED_PARAMETERS)
        rows: list[Row] = []
        for model in models:
            subprocess.run(
                [sys.executable, str(HERE / "batching_models.py"), folder, model.name],
                check=True,
                stderr=subprocess.DEVNULL,
            )
            rows += measure(model, candidates(parameters, arguments.against), plan, scratch)
    report(models, rows, plan)
    return 0


def candidates(parameters: Path, against: str | None) -> list[Candidate]:
    own = (str(Path(sys.executable).with_name("tensorflow_model_server")),)
    fixed = ("--enable_batching", f"--batching_parameters_file={parameters}")
    servers = [
        Candidate(UNBATCHED, own, ()),
        Candidate(SELF_TUNED, own, (f"--latency_slo_ms={SLO_MS}",)),
        Candidate(FIXED, own, fixed),
    ]
    return [*servers, Candidate("against", tuple(shlex.split(against)), fixed)] if against else servers


def all_models() -> list[Model]:
    """The shapes are those of `batching_models.py`."""
    sentence = "What a server should do is answer and what it should not do is keep anybody waiting for others"
    text = {
        "dtype": "DT_STRING",
        "tensor_shape": {"dim": [{"size": 1}]},
        "string_val": [base64.b64encode(sentence.encode()).decode()],
    }
    return [
        Model("mlp", "MLP, 784-512-512-10", floats(1, 784), 10),
        Model("resnet", "ResNet-50 of half the width, 32x32 pixels", floats(1, 32, 32, 3), 1000),
        Model("text", "text: hashed words, one encoder block", text, 2),
    ]


def floats(*shape: int) -> dict[str, object]:
    count = 1
    for size in shape:
        count *= size
    values = array("f", (index % 251 / 251 for index in range(count)))
    return {
        "dtype": "DT_FLOAT",
        "tensor_shape": {"dim": [{"size": size} for size in shape]},
        "tensor_content": base64.b64encode(values.tobytes()).decode(),
    }


def measure(model: Model, servers: Sequence[Candidate], plan: Plan, scratch: Path) -> list[Row]:
    message = json.dumps({"model_spec": {"name": model.name}, "inputs": {"x": model.input}})
    (scratch / "body").write_bytes(framed(engine.encode_json("tensorflow.serving.PredictRequest", message)))
    with contextlib.ExitStack() as stack:
        ports = {server.name: stack.enter_context(serving(server, model, plan, scratch)) for server in servers}

        def take_turns(loads: Sequence[Load]) -> list[Row]:
            turns: dict[tuple[str, Load], list[Seen]] = {}
            for number in range(plan.rounds):
                for load, (name, port) in itertools.product(loads, ports.items()):
                    turns.setdefault((name, load), []).append(one_turn(load, port, number, model, plan, scratch))
                print(f"{model.name}: round {number + 1} of {plan.rounds} done", file=sys.stderr)
            return [Row(model.name, name, load, middle(seen), tuple(seen)) for (name, load), seen in turns.items()]

        # The goal for one in flight is a matter of a few percent, which a turn or two do not tell.
        closed = take_turns([ALONE, ALONE, ALONE, SATURATED])
        greatest = find(closed, model.name, SELF_TUNED, SATURATED).requests_per_s
        return closed + take_turns([Open(share, share * greatest) for share in plan.shares])


@contextlib.contextmanager
def serving(server: Candidate, model: Model, plan: Plan, scratch: Path) -> Iterator[int]:
    """A server of the model: its gRPC port. Ports are free ones: on a fixed one another server might answer."""
    grpc_port, rest_port = free_ports(2)
    command = [
        *(("taskset", "-c", plan.cores) if plan.cores else ()),
        *(*server.program, f"--port={grpc_port}", f"--rest_api_port={rest_port}"),
        *(f"--model_name={model.name}", f"--model_base_path={scratch / model.name}", *server.flags),
    ]
    with running(command, lambda: is_available(rest_port, model.name)):
        yield grpc_port


def one_turn(load: Load, port: int, seed: int, model: Model, plan: Plan, scratch: Path) -> Seen:
    end_s = WARM_S + plan.seconds
    common = [str(scratch / "grpc_load"), str(port), PREDICT, str(scratch / "body"), str(4 * model.outputs)]
    if isinstance(load, Closed):
        command, times = [*common, str(load.connections), str(load.in_flight), str(end_s)], ""
    else:
        end_s = WARM_S + max(plan.seconds, min(LONGEST_TURN_S, ENOUGH_REQUESTS / load.requests_per_s))
        command = [*common, str(CONNECTIONS)]
        times = "\n".join(str(int(due * 1e6)) for due in schedule(load.requests_per_s, end_s, plan.arrivals, seed))
    output = subprocess.run(command, check=True, input=times, stdout=subprocess.PIPE, text=True).stdout
    return summary([tuple(map(int, line.split())) for line in output.splitlines()], WARM_S * 1e6, end_s * 1e6)


def summary(requests: Sequence[tuple[int, ...]], begin_us: float, end_us: float) -> Seen:
    """Of the requests that were due in the window; the rate is that of the answers that came in it."""
    counted = [request for request in requests if begin_us <= request[0] < end_us]
    latencies = sorted(answered - due for due, _, answered, is_good in counted if is_good)
    if not latencies:
        raise SystemExit(f"no good answer to any of {len(counted)} requests")
    late = sorted(sent - due for due, sent, _, _ in counted)
    answers = sum(begin_us <= answered < end_us for _, _, answered, is_good in requests if is_good)
    return Seen(
        requests_per_s=answers / (end_us - begin_us) * 1e6,
        p50_us=latencies[len(latencies) // 2],
        p99_us=latencies[len(latencies) * 99 // 100],
        sent_late_p99_us=late[len(late) * 99 // 100],
        failures=len(counted) - len(latencies),
    )


def middle(turns: Sequence[Seen]) -> Seen:
    """The median of each figure, and all failures."""
    medians = Seen(*map(statistics.median, zip(*map(dataclasses.astuple, turns), strict=True)))
    return dataclasses.replace(medians, failures=sum(turn.failures for turn in turns))


def find(rows: Iterable[Row], model: str, candidate: str, load: Load) -> Seen:
    return next(row.seen for row in rows if (row.model, row.candidate, row.load) == (model, candidate, load))


def goals(model: str, rows: Sequence[Row]) -> list[Goal]:
    """What batching is to be, and whether it is."""
    rows = [row for row in rows if row.model == model]
    alone, base_alone = find(rows, model, SELF_TUNED, ALONE), find(rows, model, UNBATCHED, ALONE)
    many, base_many = find(rows, model, SELF_TUNED, SATURATED), find(rows, model, UNBATCHED, SATURATED)
    gain, slower = many.requests_per_s / base_many.requests_per_s, alone.p50_us / base_alone.p50_us
    least = 1.5 if model == "mlp" else 1 - NOISE
    near = next(row.load for row in rows if isinstance(row.load, Open) and row.load.share == SLO_SHARE)
    seen = find(rows, model, SELF_TUNED, near)
    others = dict.fromkeys(row.candidate for row in rows if row.candidate not in (UNBATCHED, SELF_TUNED))
    return [
        Goal(f"requests/s to unbatched, at least {least:g}", f"{gain:.2f}", gain >= least),
        Goal("p50 of one in flight to unbatched, at most 1.05", f"{slower:.2f}", slower <= 1.05),
        Goal(
            f"p99 at {SLO_SHARE:.0%} of the greatest rate, at most {SLO_MS} ms",
            f"{seen.p99_us / 1e3:.1f} ms, {seen.failures} failures",
            seen.p99_us <= SLO_MS * 1e3 and not seen.failures,
        ),
        *(not_behind(model, other, rows) for other in others),
    ]


def not_behind(model: str, other: str, rows: Sequence[Row]) -> Goal:
    """Neither in throughput, nor in the latency of one request, nor in p99 at any rate."""
    behind: list[tuple[float, str]] = []
    for load in dict.fromkeys(row.load for row in rows):
        own, its = find(rows, model, SELF_TUNED, load), find(rows, model, other, load)
        if load == SATURATED:
            behind.append((its.requests_per_s / own.requests_per_s, "time per request when saturated"))
        elif load == ALONE:
            behind.append((own.p50_us / its.p50_us, "p50 of one in flight"))
        else:
            behind.append((own.p99_us / its.p99_us, f"p99 at {described(load)}"))
    worst, where = max(behind)
    return Goal(f"nowhere behind {other}, at most {1 + NOISE:g}", f"{worst:.2f}: {where}", worst <= 1 + NOISE)


def described(load: Load) -> str:
    if isinstance(load, Closed):
        return f"{load.in_flight} in flight"
    return f"{load.share:.0%}: {load.requests_per_s:,.0f}/s"


def report(models: Sequence[Model], rows: Sequence[Row], plan: Plan) -> None:
    lines = [
        f"Rates are shares of what {SELF_TUNED} reached with {described(SATURATED)}; arrivals: {plan.arrivals}",
        "",
        "| model | load | server | requests/s | to unbatched | p50 | p99 | p99 to unbatched | failures |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        base = find(rows, row.model, UNBATCHED, row.load)
        seen = row.seen
        lines.append(
            f"| {row.model} | {described(row.load)} | {row.candidate} | {seen.requests_per_s:,.0f} "
            f"| {seen.requests_per_s / base.requests_per_s:.2f} | {seen.p50_us / 1e3:,.2f} ms "
            f"| {seen.p99_us / 1e3:,.2f} ms | {seen.p99_us / base.p99_us:.2f} | {seen.failures:,} |"
        )
    lines += ["", f"| model | goal of {SELF_TUNED} | figure | met |", "|---|---|---|---|"]
    for model in models:
        for goal in goals(model.name, rows):
            lines.append(f"| {model.name} | {goal.text} | {goal.figure} | {'yes' if goal.is_met else '**no**'} |")
    keep(
        "batching",
        "\n".join(lines),
        {"plan": dataclasses.asdict(plan), "rows": [dataclasses.asdict(row) for row in rows]},
    )
    draw(models, rows, RESULTS / "batching.svg")


def draw(models: Sequence[Model], rows: Sequence[Row], path: Path) -> None:
    """Throughput against p99 in the open loop: a panel for each model, a line for each server."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "batching"})  # text stays text, ids stay
    figure = Figure(figsize=(1.0 + 4.2 * len(models), 4.2), layout="constrained")
    panels = figure.subplots(1, len(models), sharey=True, squeeze=False)[0]
    looks = [("#777777", "o"), ("#0072b2", "s"), ("#d55e00", "^"), ("#009e73", "D")]
    for model, panel in zip(models, panels, strict=True):
        of_model = [row for row in rows if row.model == model.name and isinstance(row.load, Open)]
        names = dict.fromkeys(row.candidate for row in of_model)
        for name, (colour, marker) in zip(names, looks, strict=False):
            points = [row.seen for row in of_model if row.candidate == name]
            rates, latencies = [seen.requests_per_s for seen in points], [seen.p99_us / 1e3 for seen in points]
            panel.plot(rates, latencies, color=colour, marker=marker, markersize=5, label=name)
        panel.axhline(SLO_MS, color="black", linestyle="--", linewidth=1, label=f"SLO, {SLO_MS} ms")
        panel.set(title=model.title, xlabel="answers per second", yscale="log")
        panel.set_xlim(left=0)
        panel.yaxis.set_major_formatter("{x:g}")
        panel.grid(which="major", color="#dddddd")
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("p99 (ms)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    sys.exit(main())
