"""Measures a server of many small models: the time it takes to start, what looking for versions costs, memory.

    python benches/many.py [--models N] [--seconds S]

The models are copies of half_plus_two. Needs Linux.
"""

from __future__ import annotations

import argparse
import dataclasses
import http.client
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from harness import MODELS, cpu_seconds, free_ports, is_open, keep, resident, running
from quiet import link

GRPC_PORT, REST_PORT = free_ports(2)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a server with so many models was like."""

    mode: str
    models: int
    start_s: float
    """From exec until the ports were open."""
    resident_mb: float
    """Then; one with a single model has less by what the others take."""
    idle_cores: float
    """CPU time per second while nobody asked anything."""
    first_answer_ms: float
    """Median time of the first request to a model."""


def main() -> int:
    parser = argparse.ArgumentParser(description="A server of many small models")
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--seconds", type=int, default=20, help="how long to watch the idle server")
    arguments = parser.parse_args()
    outcomes = [
        measure("eager", 1, arguments.seconds, []),
        measure("eager", arguments.models, arguments.seconds, []),
        measure("lazy", arguments.models, arguments.seconds, ["--lazy_loading"]),
    ]
    report(outcomes)
    return 0


def measure(mode: str, count: int, seconds: int, flags: Sequence[str]) -> Outcome:
    with tempfile.TemporaryDirectory() as scratch:
        names = [f"model_{number}" for number in range(count)]
        for name in names:
            shutil.copytree(MODELS / "half_plus_two", Path(scratch) / name, copy_function=link)
        config = Path(scratch) / "models.config"
        entries = [
            f'  config {{ name: "{name}" base_path: "{scratch}/{name}" model_platform: "tensorflow" }}'
            for name in names
        ]
        config.write_text("\n".join(["model_config_list {", *entries, "}"]))
        program = Path(sys.executable).with_name("tensorflow_model_server")
        command = [
            *(str(program), f"--port={GRPC_PORT}", f"--rest_api_port={REST_PORT}"),
            *(f"--model_config_file={config}", *flags),
        ]
        start = time.monotonic()
        with running(command, lambda: is_open(REST_PORT)) as process:
            start_s = time.monotonic() - start
            resident_mb = resident(process.pid)
            time.sleep(2)  # what the start has left to do
            before, since = cpu_seconds(process.pid), time.monotonic()
            time.sleep(seconds)
            idle = (cpu_seconds(process.pid) - before) / (time.monotonic() - since)
            answers = sorted(first_answer(name) for name in names[: min(count, 50)])
    return Outcome(mode, count, start_s, resident_mb, idle, answers[len(answers) // 2] * 1e3)


def first_answer(name: str) -> float:
    """Seconds that a request takes which nobody has sent before."""
    connection = http.client.HTTPConnection("127.0.0.1", REST_PORT, timeout=60)
    connection.connect()
    start = time.monotonic()
    connection.request("POST", f"/v1/models/{name}:predict", '{"instances": [1.0, 2.0, 5.0]}')
    answer = connection.getresponse()
    body = answer.read()
    took = time.monotonic() - start
    connection.close()
    if answer.status != http.client.OK or json.loads(body) != {"predictions": [2.5, 3.0, 4.5]}:
        raise SystemExit(f"{name}: {body!r}")
    return took


def per_model(outcome: Outcome, single: Outcome) -> str:
    """Memory that each further model takes."""
    if outcome.models == 1:
        return ""
    if outcome.mode == "lazy":
        return "none until they are loaded"
    return f"{(outcome.resident_mb - single.resident_mb) / (outcome.models - 1) * 1024:,.0f} kB"


def report(outcomes: Sequence[Outcome]) -> None:
    lines = [
        "| models | loaded | start | resident | per model | idle, share of a core | first answer |",
        "|---|---|---|---|---|---|---|",
    ]
    single = outcomes[0]
    for outcome in outcomes:
        lines.append(
            f"| {outcome.models:,} | {outcome.mode} | {outcome.start_s:.1f} s | {outcome.resident_mb:,.0f} MB "
            f"| {per_model(outcome, single)} | {outcome.idle_cores * 100:.2f} % | {outcome.first_answer_ms:.1f} ms |"
        )
    table = "\n".join(lines)
    keep("many", table, [dataclasses.asdict(outcome) for outcome in outcomes])


if __name__ == "__main__":
    sys.exit(main())
