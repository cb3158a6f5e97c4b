"""`servable batching`: what batching does in a running server, and what could be better."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from servable.cli.admin_client import AdminClient
from servable.cli.arguments import Parser, run, show
from servable.cli.columns import aligned

__all__ = ["advice", "as_report", "batching"]

Queue = Mapping[str, Any]
"""A `BatchingQueue` of `servable_admin.proto` as JSON."""

MOST_ADVICE = 2
FEW_BATCHES = 50
"""So few say nothing about how batches are cut."""
FEW_OF_A_SIZE = 5
"""So few say nothing about how long a size runs."""
MANY = 0.01
"""A share of requests that should not come to harm."""
MUCH_PADDING = 0.2
LITTLE_FILL = 0.5
CHEAPER = 0.95
"""A row that takes less than this share of the time of another is cheaper; the rest is noise."""


def batching(arguments: Sequence[str]) -> int:
    """Do what `arguments` ask for. Returns the exit code."""
    return run(_parser(), arguments or ["--help"])


def _parser() -> Parser:
    parser = Parser(prog="servable batching", description="See what batching does in a running server.")
    commands = parser.add_subparsers(metavar="<command>", required=True)
    sentence = "Why batches of a model are as they are, and what to change."
    explained: Parser = commands.add_parser("explain", help=sentence, description=sentence)
    explained.add_argument("name", help="name of the model")
    explained.add_argument("--version", type=int, metavar="N", help="this version only")
    explained.add_server()
    explained.add_json()
    explained.set_defaults(act=_explain)
    return parser


def _explain(options: argparse.Namespace) -> int:
    answer = AdminClient.of(options).batching(options.name, options.version)
    show(options, answer, lambda: as_report(options.name, answer["versions"]))
    return 0


def as_report(name: str, versions: Sequence[Mapping[str, Any]]) -> list[str]:
    """Versions of a model with their queues, for people."""
    if not versions:
        return [f"No version of {name} is available."]
    lines: list[str] = []
    for version in versions:
        lines += [""] if lines else []
        lines.append(f"{name} version {version['version']}: {_mode(version)}")
        for queue in version["queues"]:
            lines += ["", *_queue(queue, tunes_itself=version["mode"] == "self_tuning")]
    return lines


def _mode(version: Mapping[str, Any]) -> str:
    if version["mode"] == "none":
        return "requests run one by one"
    if version["mode"] != "self_tuning":
        return "batched with fixed parameters"
    slo = version.get("latency_slo_ms")
    goal = "" if slo is None else f", for 99 of 100 requests within {slo:g} ms"
    return f"batching tunes itself{goal}"


def _queue(queue: Queue, *, tunes_itself: bool) -> Iterator[str]:
    signature = queue.get("signature")
    tensors = f"{', '.join(queue['inputs'])} -> {', '.join(queue['outputs'])}"
    yield f"  {signature} ({tensors})" if signature else f"  {tensors}, which no signature has"
    if not queue["batches"]:
        yield from aligned([*_limits(queue), *_harm(queue), ("batches", "none yet")], indent=4)
    else:
        yield from aligned([*_batches(queue), *_limits(queue), *_harm(queue)], indent=4)
        yield from _times(queue)
        yield from _sizes(queue)
    for sentence in advice(queue, tunes_itself=tunes_itself) or (["Nothing stands out."] if queue["batches"] else []):
        yield f"    * {sentence}"


def _batches(queue: Queue) -> list[tuple[str, str]]:
    cuts = {why: count for why, count in queue["cuts"].items() if count}
    reasons = [
        f"{why} {count} ({_percent(count, sum(cuts.values()))})"
        for why, count in sorted(cuts.items(), key=lambda item: -item[1])
    ]
    return [
        (
            "batches",
            f"{queue['batches']} of {queue['requests']} requests with {queue['rows']} rows: "
            f"{_mean_rows(queue):.1f} rows each, {queue['fill']:.0%} full",
        ),
        ("cut for", ", ".join(reasons) or "no reason yet"),
        ("padding", f"{queue['padding_rows']} rows, {_padding(queue):.0%} of all"),
    ]


def _limits(queue: Queue) -> list[tuple[str, str]]:
    return [
        (
            "now",
            f"up to {queue['batch_limit_rows']} rows, waits of {_duration(queue['timeout_us'])}, "
            f"{queue['batches_at_once']} batches at once; {queue['queued_rows']} rows are waiting",
        )
    ]


def _harm(queue: Queue) -> list[tuple[str, str]]:
    counts = [(word, queue[word]) for word in ("refused", "expired", "cancelled", "retried", "unbatched")]
    requests = ", ".join(f"{count} {word}" for word, count in counts if count)
    failed = f"{queue['failed_batches']} of {queue['batches']} batches" if queue["failed_batches"] else ""
    return [row for row in (("requests", requests), ("failed", failed)) if row[1]]


def _times(queue: Queue) -> list[str]:
    parts = [(part, queue["times_us"].get(part)) for part in ("queue", "concat", "run", "split")]
    rows = [(part, *(_duration(times.get(kind)) for kind in ("mean", "p50", "p99"))) for part, times in parts if times]
    return aligned([("time", "mean", "p50", "p99"), *rows], indent=4) if rows else []


def _sizes(queue: Queue) -> list[str]:
    rows = [
        (str(size["rows"]), str(size["batches"]), _duration(size["mean_run_us"]), _duration(_per_row(size)))
        for size in sorted(queue["sizes"], key=lambda size: size["rows"])
    ]
    return aligned([("rows", "batches", "run", "per row"), *rows], indent=4) if rows else []


def advice(queue: Queue, *, tunes_itself: bool = False) -> list[str]:
    """What to change about a queue, the most important first; nothing if all is well or too little is known."""
    return list(islice(_advice(queue, tunes_itself), MOST_ADVICE))


def _advice(queue: Queue, tunes_itself: bool) -> Iterator[str]:
    yield from _about_harm(queue)
    if queue["batches"] < FEW_BATCHES:
        if queue["batches"]:
            yield f"So far there are too few batches ({queue['batches']}) to judge their size."
        return
    if not tunes_itself:
        yield from _about_cuts(queue)
    if _padding(queue) > MUCH_PADDING:
        yield (
            f"{_padding(queue):.0%} of all rows only fill batches up: add a size near {_mean_rows(queue):.0f}, the "
            "mean, to allowed_batch_sizes."
        )


def _about_harm(queue: Queue) -> Iterator[str]:
    asked = queue["requests"] + queue["refused"]

    def are_many(what: str) -> bool:
        return bool(queue[what] > MANY * asked)

    def requests(what: str) -> str:
        return f"{queue[what]} requests ({_percent(queue[what], asked)})"

    if are_many("refused"):
        yield (
            f"{requests('refused')} were refused: raise max_enqueued_batches if load comes in bursts, add a replica if "
            "it stays."
        )
    if queue["failed_batches"] > MANY * queue["batches"]:
        yield (
            f"{queue['failed_batches']} of {queue['batches']} batches failed, and their requests were run again one by "
            "one, which is slow: find out which requests the model refuses."
        )
    if are_many("expired"):
        yield (
            f"{requests('expired')} waited until their deadline had passed: the server is short of capacity, or the "
            "deadlines are too short for batching."
        )
    if are_many("unbatched"):
        yield (
            f"{requests('unbatched')} could not be batched: every input needs a first dimension, of the same length, "
            "and every output a row for each of theirs."
        )


def _about_cuts(queue: Queue) -> Iterator[str]:
    cuts = queue["cuts"]
    total = sum(cuts.values())

    def is_usual(why: str) -> bool:
        return bool(cuts.get(why, 0) * 2 > total)

    if is_usual("timeout") and queue["timeout_us"] and queue["fill"] < LITTLE_FILL:
        yield (
            f"Most batches waited for all of batch_timeout_micros ({_duration(queue['timeout_us'])}) and were "
            f"{queue['fill']:.0%} full: the wait adds latency and brings little. Lower it."
        )
    elif is_usual("full"):
        yield _about_full(queue)
    elif is_usual("deadline"):
        yield "Most batches left early because a deadline was near: allow requests more time, or lower the timeout."
    elif queue["requests"] < 1.1 * queue["batches"]:
        yield "Hardly any batch has more than one request: there are too few at a time for batching to help."


def _about_full(queue: Queue) -> str:
    known = [size for size in queue["sizes"] if size["batches"] >= FEW_OF_A_SIZE and size["rows"]]
    known.sort(key=lambda size: size["rows"])
    if len(known) < 2:
        return "Most batches are full: try a larger max_batch_size, and see whether a row gets cheaper."
    smaller, larger = known[-2:]
    costs = (
        f"a row takes {_duration(_per_row(smaller))} in batches of {smaller['rows']}, {_duration(_per_row(larger))} in "
        f"those of {larger['rows']}"
    )
    if _per_row(larger) < CHEAPER * _per_row(smaller):
        return f"Most batches are full and {costs}: a larger max_batch_size would help."
    return f"Most batches are full, but {costs}: a larger max_batch_size would only add latency."


def _per_row(size: Mapping[str, Any]) -> float:
    return float(size["mean_run_us"] / max(1, size["rows"]))


def _mean_rows(queue: Queue) -> float:
    return float(queue["rows"] / max(1, queue["batches"]))


def _padding(queue: Queue) -> float:
    """The share of padding in all rows that were run."""
    return float(queue["padding_rows"] / max(1, queue["rows"] + queue["padding_rows"]))


def _percent(part: float, whole: float) -> str:
    return f"{part / max(1, whole):.0%}"


def _duration(us: float | None) -> str:
    if us is None:
        return "-"
    if us < 1e3:
        return f"{us:.3g} µs"
    return f"{us / 1e3:.3g} ms" if us < 1e6 else f"{us / 1e6:.3g} s"
