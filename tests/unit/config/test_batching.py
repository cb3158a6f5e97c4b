from __future__ import annotations

import json
from typing import Any

import pytest
from servable.config.batching import BatchingParameters, from_text
from servable.errors import InvalidArgumentError

from tests.unit.fakes import FakeCodec


def read(**fields: Any) -> BatchingParameters:
    return from_text(json.dumps(fields), FakeCodec())


def test_parameters_are_read() -> None:
    assert read() == BatchingParameters()
    assert read(max_batch_size=8, allowed_batch_sizes=[4, 8], num_batch_threads=2) == BatchingParameters(
        max_batch_size=8, allowed_batch_sizes=(4, 8), num_batch_threads=2
    )
    read(max_enqueued_batches=0)
    read(allowed_batch_sizes=[1, 1000])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_batch_threads": 0}, "num_batch_threads must be positive; was 0"),
        ({"num_batch_threads": -1}, "num_batch_threads must be positive; was -1"),
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
            {"allowed_batch_sizes": [4, 8], "max_batch_size": 16},
            "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 8; expected 16",
        ),
        (
            {"allowed_batch_sizes": [8]},
            "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 8; expected 1000",
        ),
        ({"allowed_batch_sizes": [0, 1000]}, "allowed_batch_sizes must be positive; one was 0"),
    ],
)
def test_parameters_that_cannot_be(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        read(**fields)
    assert caught.value.message == message
