from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from servable.cli.batching import advice, as_report, batching

DOCS = Path(__file__).parents[3] / "docs"
SIZES = [{"rows": 16, "batches": 20, "mean_run_us": 1600}, {"rows": 32, "batches": 380, "mean_run_us": 2400}]


def queue(**fields: Any) -> dict[str, Any]:
    """A queue without any trouble, but for `fields`."""
    return {
        "inputs": ["x:0"],
        "outputs": ["y:0"],
        "signature": "serving_default",
        "requests": 4000,
        "rows": 10_000,
        "batches": 400,
        "padding_rows": 0,
        "cuts": {"full": 150, "timeout": 150, "idle": 100, "deadline": 0, "closed": 0},
        "fill": 0.78,
        "refused": 0,
        "expired": 0,
        "cancelled": 0,
        "failed_batches": 0,
        "retried": 0,
        "unbatched": 0,
        "times_us": {
            "queue": {"mean": 900, "p50": 850, "p99": 2100},
            "concat": {"mean": 12, "p50": 11, "p99": 30},
            "run": {"mean": 2360, "p50": 2350, "p99": 2600},
            "split": {"mean": 5, "p50": 5, "p99": 9},
        },
        "sizes": SIZES,
        "queued_rows": 3,
        "batch_limit_rows": 32,
        "timeout_us": 2000,
        "batches_at_once": 4,
        **fields,
    }


def cuts(**counts: int) -> dict[str, int]:
    return {"full": 0, "timeout": 0, "idle": 0, "deadline": 0, "closed": 0, **counts}


def flat(larger_us: float) -> list[dict[str, Any]]:
    return [SIZES[0], {**SIZES[1], "mean_run_us": larger_us}]


@pytest.mark.parametrize(
    ("fields", "beginnings"),
    [
        ({}, []),
        ({"batches": 0, "requests": 0, "rows": 0}, []),
        ({"batches": 49}, ["So far there are too few batches (49) to judge their size."]),
        (
            {"cuts": cuts(timeout=300, full=100), "fill": 0.2},
            ["Most batches waited for all of batch_timeout_micros (2 ms) and were 20% full: the wait adds latency"],
        ),
        ({"cuts": cuts(timeout=300, full=100), "fill": 0.9}, []),
        ({"cuts": cuts(timeout=300, full=100), "fill": 0.2, "timeout_us": 0}, []),
        (
            {"cuts": cuts(full=400)},
            [
                "Most batches are full and a row takes 100 µs in batches of 16, 75 µs in those of 32: a larger "
                "max_batch_size would help."
            ],
        ),
        (
            {"cuts": cuts(full=400), "sizes": flat(3200)},
            ["Most batches are full, but a row takes 100 µs in batches of 16, 100 µs in those of 32: a larger"],
        ),
        ({"cuts": cuts(full=400), "sizes": flat(4800)}, ["Most batches are full, but a row takes 100 µs in batches"]),
        (
            {"cuts": cuts(full=400), "sizes": [{**SIZES[0], "batches": 4}, SIZES[1]]},
            ["Most batches are full: try a larger max_batch_size, and see whether a row gets cheaper."],
        ),
        ({"cuts": cuts(full=400), "sizes": []}, ["Most batches are full: try a larger max_batch_size"]),
        ({"cuts": cuts(deadline=400)}, ["Most batches left early because a deadline was near"]),
        ({"cuts": cuts(idle=400), "requests": 401}, ["Hardly any batch has more than one request"]),
        ({"refused": 40}, []),
        ({"refused": 1000}, ["1000 requests (20%) were refused: raise max_enqueued_batches"]),
        ({"refused": 10, "batches": 0, "requests": 0, "rows": 0}, ["10 requests (100%) were refused"]),
        ({"expired": 400}, ["400 requests (10%) waited until their deadline had passed"]),
        ({"failed_batches": 5}, ["5 of 400 batches failed, and their requests were run again one by one"]),
        ({"unbatched": 2000}, ["2000 requests (50%) could not be batched: every input needs a first dimension"]),
        ({"padding_rows": 2500}, []),
        (
            {"padding_rows": 6000},
            ["38% of all rows only fill batches up: add a size near 25, the mean, to allowed_batch_sizes."],
        ),
        (
            {"cuts": cuts(full=400), "padding_rows": 6000, "refused": 1000},
            ["1000 requests (20%) were refused", "Most batches are full and"],
        ),
    ],
)
def test_advice(fields: dict[str, Any], beginnings: list[str]) -> None:
    given = advice(queue(**fields))
    assert len(given) == len(beginnings)
    for sentence, beginning in zip(given, beginnings, strict=True):
        assert sentence.startswith(beginning)


def test_batching_that_tunes_itself_needs_no_advice_on_waits_and_sizes() -> None:
    assert advice(queue(cuts=cuts(full=400)), tunes_itself=True) == []
    assert len(advice(queue(cuts=cuts(full=400), refused=1000), tunes_itself=True)) == 1


def test_a_report_for_people() -> None:
    told = queue(padding_rows=1000, refused=7, cancelled=2, failed_batches=1, retried=3)
    report = as_report("ranker", [{"version": 3, "mode": "fixed", "latency_slo_ms": None, "queues": [told]}])
    assert report == [
        "ranker version 3: batched with fixed parameters",
        "",
        "  serving_default (x:0 -> y:0)",
        "    batches   400 of 4000 requests with 10000 rows: 25.0 rows each, 78% full",
        "    cut for   full 150 (38%), timeout 150 (38%), idle 100 (25%)",
        "    padding   1000 rows, 9% of all",
        "    now       up to 32 rows, waits of 2 ms, 4 batches at once; 3 rows are waiting",
        "    requests  7 refused, 2 cancelled, 3 retried",
        "    failed    1 of 400 batches",
        "    time    mean     p50      p99",
        "    queue   900 µs   850 µs   2.1 ms",
        "    concat  12 µs    11 µs    30 µs",
        "    run     2.36 ms  2.35 ms  2.6 ms",
        "    split   5 µs     5 µs     9 µs",
        "    rows  batches  run     per row",
        "    16    20       1.6 ms  100 µs",
        "    32    380      2.4 ms  75 µs",
        "    * Nothing stands out.",
    ]
    page = DOCS / "batching.md"
    assert "\n".join(f"    {line}".rstrip() for line in report) in page.read_text(encoding="utf-8")


def test_queues_and_versions_of_all_kinds() -> None:
    idle = queue(batches=0, requests=0, rows=0, cuts={}, times_us={}, sizes=[], signature=None, queued_rows=0)
    versions = [
        {"version": 4, "mode": "self_tuning", "latency_slo_ms": 20.0, "queues": [idle]},
        {"version": 3, "mode": "self_tuning", "latency_slo_ms": None, "queues": []},
        {"version": 2, "mode": "none", "queues": []},
    ]
    assert as_report("m", versions) == [
        "m version 4: batching tunes itself, for 99 of 100 requests within 20 ms",
        "",
        "  x:0 -> y:0, which no signature has",
        "    now      up to 32 rows, waits of 2 ms, 4 batches at once; 0 rows are waiting",
        "    batches  none yet",
        "",
        "m version 3: batching tunes itself",
        "",
        "m version 2: requests run one by one",
    ]
    assert as_report("m", []) == ["No version of m is available."]


def test_times_that_are_not_known() -> None:
    report = as_report("m", [{"version": 1, "mode": "fixed", "queues": [queue(times_us={"run": {"mean": 2e6}})]}])
    assert "    run   2 s   -    -" in report


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["explain"], "the following arguments are required: name"),
        (["explain", "m", "--version=x"], "argument --version: invalid int value: 'x'"),
        (["explain", "m", "--server=here"], "Expected --server to be HOST:PORT; got here"),
        (["explian"], "invalid choice: 'explian'"),
    ],
)
def test_mistakes_end_with_255_and_a_hint(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert batching(arguments) == 255
    assert message in capsys.readouterr().err
