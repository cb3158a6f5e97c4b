"""How requests are to be batched: `tensorflow.serving.BatchingParameters`, read and checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from servable.config.codec import Codec
from servable.errors import InvalidArgumentError

__all__ = ["BatchingParameters", "check", "from_json", "from_text"]

MESSAGE = "tensorflow.serving.BatchingParameters"

DEFAULT_BATCH_SIZE = 1000


@dataclass(frozen=True)
class BatchingParameters:
    """`None` where a default is to hold."""

    max_batch_size: int | None = None
    batch_timeout_micros: int | None = None
    max_enqueued_batches: int | None = None
    num_batch_threads: int | None = None
    thread_pool_name: str | None = None
    allowed_batch_sizes: tuple[int, ...] = ()
    pad_variable_length_inputs: bool = False
    enable_large_batch_splitting: bool = False
    max_execution_batch_size: int | None = None


def from_text(text: str, codec: Codec) -> BatchingParameters:
    """The parameters in a file. `ValueError` if the text is malformed, `InvalidArgumentError` if they cannot be."""
    return from_json(json.loads(codec.decode_message(MESSAGE, codec.encode_text(MESSAGE, text))))


def from_json(fields: Mapping[str, Any]) -> BatchingParameters:
    """The parameters in a decoded message. `InvalidArgumentError` if they cannot be."""
    parameters = BatchingParameters(
        **{**fields, "allowed_batch_sizes": tuple(fields.get("allowed_batch_sizes", ()))},
    )
    check(parameters)
    return parameters


def check(parameters: BatchingParameters) -> None:
    """Refuse parameters that contradict one another, or that no batch can fulfil."""
    threads, timeout = parameters.num_batch_threads, parameters.batch_timeout_micros
    if threads is not None and threads < 1:
        raise InvalidArgumentError(f"num_batch_threads must be positive; was {threads}")
    size = DEFAULT_BATCH_SIZE if parameters.max_batch_size is None else parameters.max_batch_size
    if size < 1:
        raise InvalidArgumentError(f"input_batch_size_limit must be positive; was {size}")
    if timeout is not None and timeout < 0:
        raise InvalidArgumentError(f"batch_timeout_micros must be non-negative; was {timeout}")
    queue = parameters.max_enqueued_batches
    if queue is not None and (queue < 0 or (queue == 0 and parameters.enable_large_batch_splitting)):
        raise InvalidArgumentError(f"max_enqueued_batches must be positive; was {queue}")
    executed = parameters.max_execution_batch_size
    if parameters.enable_large_batch_splitting and executed is not None and size < executed:
        raise InvalidArgumentError(
            "When enable_large_batch_splitting is true, input_batch_size_limit must be greater than or equal to "
            f"max_execution_batch_size. They are {size} and {executed}"
        )
    allowed = parameters.allowed_batch_sizes
    if allowed and min(allowed) < 1:
        raise InvalidArgumentError(f"allowed_batch_sizes must be positive; one was {min(allowed)}")
    if allowed and allowed[-1] != size:
        raise InvalidArgumentError(
            f"Last entry in allowed_batch_sizes must match max_batch_size; last entry was {allowed[-1]}; "
            f"expected {size}"
        )
