"""Which platforms there are and how they load: `tensorflow.serving.PlatformConfigMap`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from servable.config import batching
from servable.config.codec import Codec
from servable.errors import InternalError, InvalidArgumentError, ServableError

__all__ = ["WITHOUT_EFFECT", "PlatformOptions", "check_thread_pools", "from_text"]

MESSAGE = "tensorflow.serving.PlatformConfigMap"
THREAD_POOLS = "tensorflow.serving.ThreadPoolFactoryConfig"
SESSION = "tensorflow.ConfigProto"
ADAPTER = "tensorflow.serving.SavedModelBundleSourceAdapterConfig"

WITHOUT_EFFECT = (
    "session_target",
    "session_run_load_threadpool_index",
    "experimental_transient_ram_bytes_during_load",
    "in_graph_batching_parameters",
    "experimental_fixed_input_tensors",
    "prefer_tflite_model",
    "num_tflite_interpreters",
    "num_tflite_interpreters_per_pool",
    "num_tflite_pools",
    "mixed_precision",
    "model_warmup_options.enable_all_batch_sizes_warmup",
)
"""Fields of SessionBundleConfig that change something in TensorFlow Serving and nothing here (yet)."""

MOST_WARMUP_THREADS = 64
"""More are of no use, and each has a stack."""


@dataclass(frozen=True)
class PlatformOptions:
    """How models of one platform are loaded; all of them are SavedModels."""

    tags: tuple[str, ...] = ("serve",)
    session: bytes = b""
    """A serialised `tensorflow.ConfigProto`."""
    warmup: bool = False
    warmup_iterations: int = 1
    warmup_threads: int = 1
    batching: batching.BatchingParameters | None = None
    per_version_batching: bool = False
    """Versions bring parameters of their own."""
    ignored: tuple[str, ...] = ()
    """Fields that are set and have no effect."""


def from_text(text: str, codec: Codec) -> dict[str, PlatformOptions]:
    """The platforms in a file, by name. `ValueError` if it is malformed, `ServableError` if it cannot be done."""
    decoded = _decoded(MESSAGE, text, codec)
    return {name: _options(name, platform, codec) for name, platform in decoded.get("platform_configs", {}).items()}


def check_thread_pools(text: str, codec: Codec) -> None:
    """Refuse a file that asks for a factory of thread pools, since there is none. Errors as those of `from_text`."""
    if factory := _decoded(THREAD_POOLS, text, codec).get("thread_pool_factory_config"):
        raise InvalidArgumentError(
            f"Couldn't find factory for config proto message type {_kind(factory)}: there is none"
        )


def _decoded(message: str, text: str, codec: Codec) -> dict[str, Any]:
    data = codec.encode_text(message, text)
    try:
        decoded: dict[str, Any] = json.loads(codec.decode_message(message, data))
    except ValueError as error:  # the text is well-formed, so it is the content of an Any
        raise _content_error(str(error)) from error
    return decoded


def _kind(content: Mapping[str, Any]) -> str:
    """The name of the message in an Any."""
    return str(content.get("@type", "")).rpartition("/")[2]


def _content_error(reason: str) -> ServableError:
    unknown = re.search("message '(.*)' not found", reason)
    if unknown:
        return InternalError(f"Unable to find compiled-in proto descriptor of type {unknown[1]}")
    return InvalidArgumentError(f"Malformed content of Any: {reason}")


def _options(name: str, platform: Mapping[str, Any], codec: Codec) -> PlatformOptions:
    adapter = platform.get("source_adapter_config", {})
    kind = _kind(adapter)
    if kind != ADAPTER:
        raise InvalidArgumentError(
            f"Couldn't find factory for config proto message type {kind or 'that is not named'}. Platform {name} takes "
            f"{ADAPTER}"
        )
    bundle = adapter.get("legacy_config", {})
    warmup = bundle.get("model_warmup_options", {})
    return PlatformOptions(
        tags=tuple(bundle.get("saved_model_tags", ())) or ("serve",),
        session=codec.encode_json(SESSION, json.dumps(bundle.get("session_config", {}))),
        warmup=bundle.get("enable_model_warmup", False),
        warmup_iterations=max(1, warmup.get("num_request_iterations", 1)),
        warmup_threads=min(max(1, warmup.get("num_model_warmup_threads", 1)), MOST_WARMUP_THREADS),
        batching=_batching(bundle),
        per_version_batching=bundle.get("enable_per_model_batching_params", False),
        ignored=tuple(field for field in WITHOUT_EFFECT if _has(bundle, field)),
    )


def _has(bundle: Mapping[str, Any], path: str) -> bool:
    field, _, rest = path.partition(".")
    return field in bundle and (not rest or _has(bundle[field], rest))


def _batching(bundle: Mapping[str, Any]) -> batching.BatchingParameters | None:
    # There are no thread pools per run here to be left out; in TensorFlow Serving this field also ends batching.
    if "batching_parameters" not in bundle or bundle.get("wrap_session_with_no_threading_params", False):
        return None
    parameters = batching.from_json(bundle["batching_parameters"])
    batching.check_pool(parameters)
    return parameters
