"""The `tensorflow.ConfigProto` of every session: what the file says, overridden by what flags say."""

from __future__ import annotations

from dataclasses import dataclass

from servable.config.codec import Codec
from servable.errors import InvalidArgumentError

__all__ = ["SessionOptions", "has_own_threads", "session_config", "thread_counts"]

MESSAGE = "tensorflow.ConfigProto"


@dataclass(frozen=True)
class SessionOptions:
    """The flags that concern sessions; `None` where a flag was not given, so that the file's value holds."""

    tags: tuple[str, ...] = ("serve",)
    config_file: str | None = None
    parallelism: int | None = None
    intra_op_parallelism: int | None = None
    inter_op_parallelism: int | None = None
    gpu_memory_fraction: float | None = None
    bfloat16: bool = False
    """oneDNN computes in bfloat16 where that is precise enough."""


def session_config(options: SessionOptions, text: str, codec: Codec) -> bytes:
    """The serialised ConfigProto, empty if nothing is asked for. `ValueError` if the text is malformed."""
    config = codec.encode_text(MESSAGE, text) if text else b""
    overrides = thread_counts(options)
    if not overrides and options.gpu_memory_fraction is None and not options.bfloat16:
        return config
    import json

    fields = json.loads(codec.decode_message(MESSAGE, config))
    fields.update(overrides)
    if options.gpu_memory_fraction is not None:
        fields.setdefault("gpu_options", {})["per_process_gpu_memory_fraction"] = options.gpu_memory_fraction
    if options.bfloat16:
        rewrites = fields.setdefault("graph_options", {}).setdefault("rewrite_options", {})
        rewrites["auto_mixed_precision_onednn_bfloat16"] = "ON"
    return codec.encode_json(MESSAGE, json.dumps(fields))


def thread_counts(options: SessionOptions) -> dict[str, int]:
    """The thread counts that flags decide. Those for one kind of threads go before the one for both."""
    both, intra, inter = options.parallelism, options.intra_op_parallelism, options.inter_op_parallelism
    if both and intra and inter:
        raise InvalidArgumentError(
            "Either configure server_options.tensorflow_session_parallelism or "
            "(server_options.tensorflow_intra_op_parallelism, server_options.tensorflow_inter_op_parallelism) "
            "separately. You cannot configure all."
        )
    if not intra and not inter and both is not None:
        intra = inter = both
    counts = {"intra_op_parallelism_threads": intra, "inter_op_parallelism_threads": inter}
    return {name: count for name, count in counts.items() if count is not None}


def has_own_threads(config: bytes, codec: Codec) -> bool:
    """Whether sessions with this serialised ConfigProto make thread pools of their own, rather than share them."""
    if not config:
        return False
    import json

    fields = json.loads(codec.decode_message(MESSAGE, config))
    return bool(fields.get("use_per_session_threads") or fields.get("session_inter_op_thread_pool"))
