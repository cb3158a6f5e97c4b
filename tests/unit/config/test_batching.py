from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from servable.config.batching import (
    BatchingOptions,
    BatchingParameters,
    PlatformBatching,
    check_pool,
    check_queue,
    find,
    from_flags,
    from_json,
    from_text,
    spec_of,
    to_json,
)
from servable.errors import InvalidArgumentError
from servable.types import BatchingSpec

from tests.unit.fakes import FakeCodec


def read(**fields: Any) -> BatchingParameters:
    return from_text(json.dumps(fields), FakeCodec())


def test_parameters_are_read() -> None:
    assert read() == BatchingParameters()
    assert read(max_batch_size=8, allowed_batch_sizes=[4, 8], num_batch_threads=2) == BatchingParameters(
        max_batch_size=8, allowed_batch_sizes=(4, 8), num_batch_threads=2
    )
    assert read(servable={"max_batch_size": "AUTO", "padding_policy": "BATCH_DOWN"}) == BatchingParameters(
        auto_size=True, padding_policy="BATCH_DOWN"
    )


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"max_batch_size": 8, "max_enqueued_batches": 0, "batch_timeout_micros": 0, "thread_pool_name": ""},
        {"allowed_batch_sizes": [1, 1000], "pad_variable_length_inputs": True, "num_batch_threads": 3},
        {"enable_large_batch_splitting": True, "max_execution_batch_size": 4},
        {"servable": {"max_batch_size": "AUTO", "latency_slo_ms": 12.5, "unbatched_fallback": True}},
        {
            "servable": {
                "padding_policy": "MINIMIZE_COST_PER_REQUEST",
                "mixed_priority_policy": "PRIORITY_MERGE",
                "low_priority_max_batch_size": 4,
                "low_priority_batch_timeout_micros": 5,
                "low_priority_max_enqueued_batches": 6,
                "low_priority_allowed_batch_sizes": [2, 4],
            }
        },
    ],
)
def test_parameters_are_written_as_they_were_read(fields: dict[str, Any]) -> None:
    assert to_json(from_json(fields)) == fields


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("max_batch_size", 7, "max_batch_size has to be AUTO; was 7"),
        ("padding_policy", 9, "padding_policy has to be PAD_UP or BATCH_DOWN or MINIMIZE_COST_PER_REQUEST; was 9"),
        ("mixed_priority_policy", 9, "mixed_priority_policy has to be LOW_PRIORITY_PADDING_WITH_MAX_BATCH_SIZE or "),
    ],
)
def test_choices_that_there_are_not(field: str, value: object, message: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        read(servable={field: value})
    assert caught.value.message.startswith(message)


@pytest.mark.parametrize("threads", [0, -1])
def test_a_pool_needs_threads(threads: int) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        check_pool(read(num_batch_threads=threads))
    assert caught.value.message == f"num_batch_threads must be positive; was {threads}"
    check_pool(read(num_batch_threads=1))
    check_pool(read())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_batch_size": 0}, "input_batch_size_limit must be positive; was 0"),
        ({"batch_timeout_micros": -5}, "batch_timeout_micros must be non-negative; was -5"),
        ({"max_enqueued_batches": -1}, "max_enqueued_batches must be positive; was -1"),
        (
            {"max_enqueued_batches": 0, "enable_large_batch_splitting": True},
            "max_enqueued_batches must be positive; was 0",
        ),
        (
            {"max_batch_size": 4, "max_execution_batch_size": 8, "enable_large_batch_splitting": True},
            "When enable_large_batch_splitting is true, input_batch_size_limit must be greater than or equal to "
            "max_execution_batch_size. They are 4 and 8",
        ),
        (
            {"max_execution_batch_size": 2000, "enable_large_batch_splitting": True},
            "When enable_large_batch_splitting is true, input_batch_size_limit must be greater than or equal to "
            "max_execution_batch_size. They are 1000 and 2000",
        ),
        (
            {"max_execution_batch_size": 0, "enable_large_batch_splitting": True},
            "max_execution_batch_size must be positive; was 0",
        ),
        (
            {"allowed_batch_sizes": [4, 8], "max_batch_size": 16},
            "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 8; expected 16",
        ),
        (
            {"allowed_batch_sizes": [8]},
            "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 8; expected 1000",
        ),
        (
            {
                "allowed_batch_sizes": [2, 4],
                "max_batch_size": 8,
                "max_execution_batch_size": 4,
                "enable_large_batch_splitting": True,
            },
            "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 4; expected 8",
        ),
        ({"allowed_batch_sizes": [0, 1000]}, "allowed_batch_sizes must be positive; one was 0"),
        ({"allowed_batch_sizes": [-4, 1000]}, "allowed_batch_sizes must be positive; one was -4"),
        (
            {"allowed_batch_sizes": [8, 4, 16], "max_batch_size": 16},
            "allowed_batch_sizes must be in ascending order; 8 comes before 4",
        ),
        (
            {"allowed_batch_sizes": [8, 16, 16], "max_batch_size": 16},
            "allowed_batch_sizes must be in ascending order; 16 comes before 16",
        ),
        ({"servable": {"latency_slo_ms": -2}}, "latency_slo_ms must be positive; was -2.0"),
        ({"servable": {"latency_slo_ms": "Infinity"}}, "latency_slo_ms must be positive; was inf"),
        ({"servable": {"latency_slo_ms": "NaN"}}, "latency_slo_ms must be positive; was nan"),
        (
            {"servable": {"low_priority_batch_timeout_micros": -1}},
            "low_priority_batch_timeout_micros must be non-negative; was -1",
        ),
        (
            {"servable": {"low_priority_max_batch_size": 4, "low_priority_allowed_batch_sizes": [8]}},
            "Last entry in low_priority_allowed_batch_sizes must match low_priority_max_batch_size; last entry was 8; "
            "expected 4",
        ),
        (
            {"servable": {"low_priority_max_batch_size": 4, "low_priority_allowed_batch_sizes": [5, 4]}},
            "low_priority_allowed_batch_sizes must be in ascending order; 5 comes before 4",
        ),
    ],
)
def test_queues_that_cannot_be(fields: dict[str, Any], message: str) -> None:
    parameters = read(**fields)
    check_pool(parameters)
    with pytest.raises(InvalidArgumentError) as caught:
        check_queue(parameters)
    assert caught.value.message == message
    with pytest.raises(InvalidArgumentError):
        spec_of("m", PlatformBatching(parameters=parameters), None, None)


@pytest.mark.parametrize(
    "fields",
    [
        {"max_enqueued_batches": 0},
        {"allowed_batch_sizes": [1, 1000]},
        {"max_execution_batch_size": 2000},
        {"enable_large_batch_splitting": True},
        {"servable": {"low_priority_max_batch_size": 4, "low_priority_allowed_batch_sizes": [2, 4]}},
    ],
)
def test_queues_that_can_be(fields: dict[str, Any]) -> None:
    check_queue(read(**fields))


USUAL = BatchingSpec(pool="tensorflow/batch_threads", threads=4)


@pytest.mark.parametrize(
    ("fields", "changes"),
    [
        ({}, {}),
        ({"max_batch_size": 8}, {"max_batch_size": 8, "max_execution_batch_size": 8}),
        ({"max_batch_size": 8, "max_execution_batch_size": 4}, {"max_batch_size": 8, "max_execution_batch_size": 8}),
        (
            {"max_batch_size": 8, "max_execution_batch_size": 4, "enable_large_batch_splitting": True},
            {"max_batch_size": 8, "max_execution_batch_size": 4, "split_large_batches": True},
        ),
        (
            {"max_execution_batch_size": 4, "enable_large_batch_splitting": True},
            {"max_execution_batch_size": 4, "split_large_batches": True},
        ),
        ({"enable_large_batch_splitting": True}, {"split_large_batches": True}),
        ({"batch_timeout_micros": 1500}, {"batch_timeout_us": 1500}),
        ({"max_enqueued_batches": 0}, {"max_enqueued_batches": 1, "low_priority_max_enqueued_batches": 1}),
        ({"max_enqueued_batches": 3}, {"max_enqueued_batches": 3, "low_priority_max_enqueued_batches": 3}),
        (
            {"num_batch_threads": 9, "thread_pool_name": "mine"},
            {"pool": "tensorflow/mine", "threads": 9},
        ),
        ({"thread_pool_name": ""}, {}),
        (
            {"allowed_batch_sizes": [4, 1000], "pad_variable_length_inputs": True},
            {"allowed_batch_sizes": (4, 1000), "pad_variable_length_inputs": True},
        ),
        (
            {"servable": {"max_batch_size": "AUTO"}},
            {"self_tuning": True, "fallback": True, "threads": 2, "most_threads": 4},
        ),
        (
            {"servable": {"max_batch_size": "AUTO"}, "num_batch_threads": 3},
            {"self_tuning": True, "fallback": True, "threads": 3},
        ),
        (
            {"servable": {"latency_slo_ms": 20}, "max_batch_size": 64},
            {
                "self_tuning": True,
                "threads": 2,
                "most_threads": 4,
                "fallback": True,
                "latency_slo_ms": 20.0,
                "max_batch_size": 64,
                "max_execution_batch_size": 64,
            },
        ),
        ({"servable": {"unbatched_fallback": True}}, {"fallback": True}),
        ({"servable": {"padding_policy": "BATCH_DOWN"}}, {"padding_policy": "BATCH_DOWN"}),
        (
            {
                "servable": {
                    "mixed_priority_policy": "PRIORITY_ISOLATION",
                    "low_priority_max_batch_size": 4,
                    "low_priority_batch_timeout_micros": 5,
                    "low_priority_max_enqueued_batches": 6,
                    "low_priority_allowed_batch_sizes": [2, 4],
                }
            },
            {
                "mixed_priority_policy": "PRIORITY_ISOLATION",
                "low_priority_max_batch_size": 4,
                "low_priority_batch_timeout_us": 5,
                "low_priority_max_enqueued_batches": 6,
                "low_priority_allowed_batch_sizes": (2, 4),
            },
        ),
    ],
)
def test_what_becomes_of_parameters(fields: dict[str, Any], changes: dict[str, Any]) -> None:
    platform = PlatformBatching(processors=4, parameters=read(**fields))
    expected = replace(USUAL, low_priority_max_enqueued_batches=10)
    assert spec_of("m", platform, None, None) == replace(expected, **changes)


ONE, TWO, THREE = (BatchingParameters(max_batch_size=size) for size in (1, 2, 3))
TUNED = BatchingParameters(max_batch_size=3, auto_size=True)


@pytest.mark.parametrize(
    ("version", "own", "platform", "per_version", "size"),
    [
        (ONE, TWO, THREE, True, 1),
        (ONE, None, None, True, 1),
        (None, TWO, THREE, True, 2),
        (None, TWO, THREE, False, 2),
        (None, TWO, None, False, 2),
        (None, None, THREE, False, 3),
        (None, None, THREE, True, None),  # its file is missing
        (None, None, TUNED, True, 3),  # needs no file
        (None, None, None, False, None),
        (None, None, None, True, None),
    ],
)
def test_the_closest_parameters_count(
    version: BatchingParameters | None,
    own: BatchingParameters | None,
    platform: BatchingParameters | None,
    per_version: bool,
    size: int | None,
) -> None:
    spec = spec_of("m", PlatformBatching(parameters=platform, per_version=per_version), own, version)
    assert (spec and spec.max_batch_size) == size


@pytest.mark.parametrize(
    ("version", "own", "platform", "pool"),
    [
        ({}, None, {"num_batch_threads": 2}, ("p/batch_threads", 2)),
        ({"num_batch_threads": 9, "thread_pool_name": "v"}, None, {}, ("p/batch_threads", 4)),
        ({}, None, {"num_batch_threads": 2, "thread_pool_name": "x"}, ("p/x", 2)),
        (None, {}, {"num_batch_threads": 2, "thread_pool_name": "x"}, ("p/x", 2)),
        (None, {"num_batch_threads": 1}, {"num_batch_threads": 2}, ("p/m", 1)),
        (None, {"thread_pool_name": "own"}, {"num_batch_threads": 2}, ("p/own", 4)),
        ({}, {"num_batch_threads": 1, "thread_pool_name": "own"}, {}, ("p/own", 1)),
    ],
)
def test_pools(
    version: dict[str, Any] | None, own: dict[str, Any] | None, platform: dict[str, Any], pool: tuple[str, int]
) -> None:
    given = PlatformBatching("p", 4, read(**platform), per_version=True)
    spec = spec_of("m", given, None if own is None else read(**own), None if version is None else read(**version))
    assert spec is not None
    assert (spec.pool, spec.threads) == pool


def test_the_fallback_of_the_flags_holds_for_all() -> None:
    spec = spec_of("m", PlatformBatching(fallback=True), ONE, None)
    assert spec is not None
    assert spec.fallback


@pytest.mark.parametrize(
    ("options", "fields", "expected"),
    [
        (BatchingOptions(), {}, None),
        (BatchingOptions(fallback=True), {}, None),
        (BatchingOptions(enabled=True), {}, BatchingParameters(thread_pool_name="model_server_batch_threads")),
        (BatchingOptions(enabled=True, file="f"), {}, BatchingParameters()),
        (BatchingOptions(enabled=True, file="f"), {"max_batch_size": 8}, BatchingParameters(max_batch_size=8)),
        (BatchingOptions(latency_slo_ms=5), {}, BatchingParameters(latency_slo_ms=5)),
        (
            BatchingOptions(enabled=True, file="f", latency_slo_ms=5),
            {"max_batch_size": 8},
            BatchingParameters(max_batch_size=8, latency_slo_ms=5),
        ),
        (
            BatchingOptions(enabled=True, file="f", latency_slo_ms=5),
            {"servable": {"latency_slo_ms": 7}},
            BatchingParameters(latency_slo_ms=7),
        ),
    ],
)
def test_what_flags_say(options: BatchingOptions, fields: dict[str, Any], expected: BatchingParameters | None) -> None:
    assert from_flags(options, json.dumps(fields), FakeCodec()) == expected


def test_only_threads_are_checked_at_the_start() -> None:
    options = BatchingOptions(enabled=True, file="f")
    from_flags(options, '{"max_batch_size": 0}', FakeCodec())
    with pytest.raises(InvalidArgumentError, match="num_batch_threads must be positive; was 0"):
        from_flags(options, '{"num_batch_threads": 0}', FakeCodec())


def test_a_version_may_have_a_file(tmp_path: Path) -> None:
    assert find(str(tmp_path), FakeCodec()) is None
    file = tmp_path / "batching_params.pbtxt"
    file.write_text('{"max_batch_size": 8}')
    assert find(str(tmp_path), FakeCodec()) == BatchingParameters(max_batch_size=8)
    file.write_text("max_batch")
    with pytest.raises(ValueError, match="1:1"):
        find(str(tmp_path), FakeCodec())
    file.write_bytes(b"\xff")
    with pytest.raises(ValueError, match="utf-8"):
        find(str(tmp_path), FakeCodec())
