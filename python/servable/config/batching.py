"""How requests are to be batched: `tensorflow.serving.BatchingParameters`, read, checked and completed.

The parameters closest to a version count, and count as a whole:

    1. `batching_params.pbtxt` in its folder, with --enable_per_model_batching_parameters
    2. `servable { batching { ... } }` of its model in the list of models, which holds whatever flags say
    3. `batching_parameters` of its platform in a platform file; without such a file, --batching_parameters_file
    4. --enable_batching, --latency_slo_ms and --unbatched_fallback

Where nothing is said requests run one by one. With --enable_per_model_batching_parameters, 3 and 4 give threads to what
1 and 2 describe, and hold for other versions only if they make batching tune itself.
"""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from servable.config.codec import Codec
from servable.errors import InvalidArgumentError
from servable.types import BatchingSpec

__all__ = [
    "BatchingOptions",
    "BatchingParameters",
    "PlatformBatching",
    "check_pool",
    "check_queue",
    "find",
    "from_flags",
    "from_json",
    "from_text",
    "spec_of",
    "to_json",
    "version_file",
]

MESSAGE = "tensorflow.serving.BatchingParameters"
VERSION_FILE = "batching_params.pbtxt"

MAX_BATCH_SIZE = 1000
MAX_ENQUEUED_BATCHES = 10
POOL = "batch_threads"
POOL_WITHOUT_FILE = "model_server_batch_threads"

BATCH_SIZES = ("AUTO",)
PADDING_POLICIES = ("PAD_UP", "BATCH_DOWN", "MINIMIZE_COST_PER_REQUEST")
MIXED_PRIORITY_POLICIES = (
    "LOW_PRIORITY_PADDING_WITH_MAX_BATCH_SIZE",
    "LOW_PRIORITY_PADDING_WITH_NEXT_ALLOWED_BATCH_SIZE",
    "PRIORITY_ISOLATION",
    "PRIORITY_MERGE",
)


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
    # From here on what stands in `servable { ... }`.
    auto_size: bool = False
    """`max_batch_size: AUTO`."""
    latency_slo_ms: float | None = None
    unbatched_fallback: bool = False
    padding_policy: str | None = None
    mixed_priority_policy: str | None = None
    low_priority_max_batch_size: int = 0
    low_priority_batch_timeout_micros: int = 0
    low_priority_max_enqueued_batches: int = 0
    low_priority_allowed_batch_sizes: tuple[int, ...] = ()

    @property
    def tunes_itself(self) -> bool:
        return self.auto_size or self.latency_slo_ms is not None

    @property
    def names_pool(self) -> bool:
        return bool(self.thread_pool_name) or self.num_batch_threads is not None


@dataclass(frozen=True)
class BatchingOptions:
    """What the flags say of batching."""

    enabled: bool = False
    file: str | None = None
    per_version: bool = False
    """Versions bring parameters of their own."""
    latency_slo_ms: float | None = None
    fallback: bool = False
    processors: int = 1
    """Batches that a pool runs at a time unless it is told otherwise."""


@dataclass(frozen=True)
class PlatformBatching:
    """How versions of one platform are batched, as far as neither they nor their models say it."""

    platform: str = "tensorflow"
    processors: int = 1
    parameters: BatchingParameters | None = None
    per_version: bool = False
    """Versions bring parameters of their own."""
    fallback: bool = False
    """Of all versions of the platform, whoever describes their batching."""

    @property
    def usual(self) -> BatchingParameters | None:
        """The parameters of a version if neither it nor its model has any."""
        if self.per_version and self.parameters is not None and not self.parameters.tunes_itself:
            return None
        return self.parameters


def from_text(text: str, codec: Codec) -> BatchingParameters:
    """The parameters in a file. `ValueError` if the text is malformed."""
    return from_json(json.loads(codec.decode_message(MESSAGE, codec.encode_text(MESSAGE, text))))


def from_json(fields: Mapping[str, Any]) -> BatchingParameters:
    """The parameters in a decoded message, as they are. `InvalidArgumentError` for a choice that there is not."""
    own = {"servable", "allowed_batch_sizes"}
    options = fields.get("servable", {})
    return BatchingParameters(
        **{name: value for name, value in fields.items() if name not in own},
        allowed_batch_sizes=tuple(fields.get("allowed_batch_sizes", ())),
        auto_size=_choice(options, "max_batch_size", BATCH_SIZES) is not None,
        latency_slo_ms=float(options.get("latency_slo_ms", 0)) or None,
        unbatched_fallback=options.get("unbatched_fallback", False),
        padding_policy=_choice(options, "padding_policy", PADDING_POLICIES),
        mixed_priority_policy=_choice(options, "mixed_priority_policy", MIXED_PRIORITY_POLICIES),
        low_priority_max_batch_size=options.get("low_priority_max_batch_size", 0),
        low_priority_batch_timeout_micros=options.get("low_priority_batch_timeout_micros", 0),
        low_priority_max_enqueued_batches=options.get("low_priority_max_enqueued_batches", 0),
        low_priority_allowed_batch_sizes=tuple(options.get("low_priority_allowed_batch_sizes", ())),
    )


def _choice(options: Mapping[str, Any], name: str, known: Sequence[str]) -> str | None:
    value = options.get(name)
    if value is not None and value not in known:
        raise InvalidArgumentError(f"{name} has to be {' or '.join(known)}; was {value}")
    return value


def to_json(parameters: BatchingParameters) -> dict[str, Any]:
    """The parameters as proto JSON: what `from_json` makes them of."""
    options = {
        "max_batch_size": "AUTO" if parameters.auto_size else None,
        "latency_slo_ms": parameters.latency_slo_ms,
        "unbatched_fallback": parameters.unbatched_fallback or None,
        "padding_policy": parameters.padding_policy,
        "mixed_priority_policy": parameters.mixed_priority_policy,
        "low_priority_max_batch_size": parameters.low_priority_max_batch_size or None,
        "low_priority_batch_timeout_micros": parameters.low_priority_batch_timeout_micros or None,
        "low_priority_max_enqueued_batches": parameters.low_priority_max_enqueued_batches or None,
        "low_priority_allowed_batch_sizes": list(parameters.low_priority_allowed_batch_sizes) or None,
    }
    fields = {
        "max_batch_size": parameters.max_batch_size,
        "batch_timeout_micros": parameters.batch_timeout_micros,
        "max_enqueued_batches": parameters.max_enqueued_batches,
        "num_batch_threads": parameters.num_batch_threads,
        "thread_pool_name": parameters.thread_pool_name,
        "allowed_batch_sizes": list(parameters.allowed_batch_sizes) or None,
        "pad_variable_length_inputs": parameters.pad_variable_length_inputs or None,
        "enable_large_batch_splitting": parameters.enable_large_batch_splitting or None,
        "max_execution_batch_size": parameters.max_execution_batch_size,
        "servable": _set(options) or None,
    }
    return _set(fields)


def _set(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def from_flags(options: BatchingOptions, text: str, codec: Codec) -> BatchingParameters | None:
    """What the flags say, `text` being the file that they name; `None` if nothing is to be batched. Errors as those of
    `from_text`; `InvalidArgumentError` for a pool that cannot be.
    """
    parameters = None
    if options.enabled and options.file is None:
        parameters = BatchingParameters(thread_pool_name=POOL_WITHOUT_FILE)
    elif options.enabled:
        parameters = from_text(text, codec)
        check_pool(parameters)
    if options.latency_slo_ms is not None:
        parameters = parameters or BatchingParameters()
        parameters = replace(parameters, latency_slo_ms=parameters.latency_slo_ms or options.latency_slo_ms)
    return parameters


def version_file(version_folder: str) -> str:
    """Where a version has parameters of its own, if it has any."""
    return os.path.join(version_folder, VERSION_FILE)


def find(version_folder: str, codec: Codec) -> BatchingParameters | None:
    """What lies with a version; `None` if there is nothing.

    `OSError` if it cannot be read, `ValueError` if it is malformed, `InvalidArgumentError` as `from_json` has it.
    """
    try:
        with open(version_file(version_folder), encoding="utf-8") as file:
            return from_text(file.read(), codec)
    except FileNotFoundError:
        return None


def spec_of(
    model: str, platform: PlatformBatching, own: BatchingParameters | None, version: BatchingParameters | None
) -> BatchingSpec | None:
    """How one version is batched; `None`: its requests run one by one. `InvalidArgumentError` if it cannot be so.

    `own` is what the list of models says of its model, `version` what lies in its folder. A pool is what a model names,
    or else that of its platform; a version cannot name one.
    """
    parameters = version or own or platform.usual
    if parameters is None:
        return None
    check_queue(parameters)
    pool, threads = _pool(model, platform, own)
    # As many threads as processors would make small batches of what never waits, and leave none to read requests. For
    # some models that is best all the same: it is learned.
    few_threads = min(platform.processors, max(2, platform.processors // 2))
    usual_threads = few_threads if parameters.tunes_itself else platform.processors
    size = _max_batch_size(parameters)
    queued = MAX_ENQUEUED_BATCHES if parameters.max_enqueued_batches is None else parameters.max_enqueued_batches
    queued = max(1, queued)
    return BatchingSpec(
        pool=f"{platform.platform}/{pool}",
        threads=threads or usual_threads,
        most_threads=platform.processors if parameters.tunes_itself and not threads else None,
        max_batch_size=size,
        max_execution_batch_size=_max_execution_batch_size(parameters),
        batch_timeout_us=parameters.batch_timeout_micros or 0,
        max_enqueued_batches=queued,
        allowed_batch_sizes=parameters.allowed_batch_sizes,
        pad_variable_length_inputs=parameters.pad_variable_length_inputs,
        split_large_batches=parameters.enable_large_batch_splitting,
        self_tuning=parameters.tunes_itself,
        latency_slo_ms=parameters.latency_slo_ms,
        fallback=parameters.tunes_itself or parameters.unbatched_fallback or platform.fallback,
        padding_policy=parameters.padding_policy or PADDING_POLICIES[0],
        mixed_priority_policy=parameters.mixed_priority_policy or MIXED_PRIORITY_POLICIES[0],
        low_priority_max_batch_size=parameters.low_priority_max_batch_size,
        low_priority_batch_timeout_us=parameters.low_priority_batch_timeout_micros,
        low_priority_max_enqueued_batches=parameters.low_priority_max_enqueued_batches or queued,
        low_priority_allowed_batch_sizes=parameters.low_priority_allowed_batch_sizes,
    )


def _pool(model: str, platform: PlatformBatching, own: BatchingParameters | None) -> tuple[str, int | None]:
    """The pool, and its number of threads if one is given. Threads of a model's own need a pool of its own."""
    if own is not None and own.names_pool:
        return own.thread_pool_name or model, own.num_batch_threads
    shared = platform.parameters or BatchingParameters()
    return shared.thread_pool_name or POOL, shared.num_batch_threads


def _max_batch_size(parameters: BatchingParameters) -> int:
    return MAX_BATCH_SIZE if parameters.max_batch_size is None else parameters.max_batch_size


def _max_execution_batch_size(parameters: BatchingParameters) -> int:
    size = parameters.max_execution_batch_size
    return size if size is not None and parameters.enable_large_batch_splitting else _max_batch_size(parameters)


def check_pool(parameters: BatchingParameters) -> None:
    """Refuse a pool that cannot be. TensorFlow Serving does so when it starts."""
    threads = parameters.num_batch_threads
    if threads is not None and threads < 1:
        raise InvalidArgumentError(f"num_batch_threads must be positive; was {threads}")


def check_queue(parameters: BatchingParameters) -> None:
    """Refuse parameters that contradict one another, or that no batch can fulfil.

    TensorFlow Serving does so when a version is loaded. Words of its own come first, where it has some.
    """
    size, timeout = _max_batch_size(parameters), parameters.batch_timeout_micros
    if size < 1:
        raise InvalidArgumentError(f"input_batch_size_limit must be positive; was {size}")
    if timeout is not None and timeout < 0:
        raise InvalidArgumentError(f"batch_timeout_micros must be non-negative; was {timeout}")
    queued = parameters.max_enqueued_batches
    if queued is not None and (queued < 0 or (queued == 0 and parameters.enable_large_batch_splitting)):
        raise InvalidArgumentError(f"max_enqueued_batches must be positive; was {queued}")
    executed = _max_execution_batch_size(parameters)
    if size < executed:
        raise InvalidArgumentError(
            "When enable_large_batch_splitting is true, input_batch_size_limit must be greater than or equal to "
            f"max_execution_batch_size. They are {size} and {executed}"
        )
    if executed < 1:
        raise InvalidArgumentError(f"max_execution_batch_size must be positive; was {executed}")
    _check_sizes(parameters.allowed_batch_sizes, size)
    slo = parameters.latency_slo_ms
    if slo is not None and not (math.isfinite(slo) and slo > 0):
        raise InvalidArgumentError(f"latency_slo_ms must be positive; was {slo}")
    for name in ("max_batch_size", "batch_timeout_micros", "max_enqueued_batches"):
        value = getattr(parameters, f"low_priority_{name}")
        if value < 0:
            raise InvalidArgumentError(f"low_priority_{name} must be non-negative; was {value}")
    _check_sizes(parameters.low_priority_allowed_batch_sizes, parameters.low_priority_max_batch_size, "low_priority_")


def _check_sizes(allowed: Sequence[int], largest: int, prefix: str = "") -> None:
    if not allowed:
        return
    name = f"{prefix}allowed_batch_sizes"
    if allowed[-1] != largest:
        raise InvalidArgumentError(
            f"Last entry in {name} must match {prefix}max_batch_size; last entry was {allowed[-1]}; expected {largest}"
        )
    if min(allowed) < 1:
        raise InvalidArgumentError(f"{name} must be positive; one was {min(allowed)}")
    for smaller, larger in itertools.pairwise(allowed):
        if smaller >= larger:
            raise InvalidArgumentError(f"{name} must be in ascending order; {smaller} comes before {larger}")
