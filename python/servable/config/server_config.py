"""Everything one run of the server is told, as one frozen value made from the flags."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from servable.config import (
    batching,
    model_config,
    monitoring_config,
    platform_config,
    request_log,
    session_config,
    tracing,
)
from servable.config.base_path import is_absolute
from servable.config.batching import BatchingOptions, PlatformBatching
from servable.config.channel_arguments import channel_arguments
from servable.config.codec import Codec
from servable.config.flags import FlagValues
from servable.config.model_config import LabelRule, ModelConfig, Transition
from servable.config.options import OPTIONS, Group, Support
from servable.config.platform_config import PlatformOptions
from servable.config.session_config import SessionOptions, has_own_threads
from servable.config.tls import TlsOptions
from servable.errors import InvalidArgumentError, MalformedFileError, UnimplementedError, reading
from servable.logs import LogFormat, LogLevel
from servable.types import LimitSpec, RequestLogOptions, ServerSpec, SessionSpec, WarmupOptions

__all__ = [
    "Config",
    "Files",
    "LoadingOptions",
    "LogOptions",
    "ModelOptions",
    "PlatformSpec",
    "StorageOptions",
    "batch_sizes",
    "config_from",
    "log_options",
    "read_files",
    "read_models",
]

T = TypeVar("T")

BFLOAT16 = "bfloat16"

BESIDE_PLATFORM_FILE = (
    "platform_config_file",
    "thread_pool_factory_config_file",
    "custom_op_library",
    "xla_cpu_compilation_enabled",
    "xla_gpu_compilation_enabled",
    "skip_initialize_tpu",
)
"""Flags about TensorFlow that hold whether there is a platform file or not."""


@dataclass(frozen=True)
class ModelOptions:
    """Which models, and how changes to them are noticed."""

    fixed: tuple[ModelConfig, ...]
    """The models to serve if there is no configuration file."""
    config_file: str | None
    config_file_period_s: float | None
    """How often to read the file again; `None` for once."""
    scan_period_s: float | None
    """How often to look for versions; `None` for at start-up and reloads only."""
    scan: bool
    """False: versions are never looked for, and start-up waits for ever."""
    versions_always_present: bool
    """A base path without versions does not unload what is served."""
    fail_without_versions: bool
    """A model without versions at the start is an error rather than waited for."""
    labels: LabelRule
    root: str
    """What relative base paths are relative to; empty for nothing."""
    state_file: str | None
    """Where changes made through the admin port are kept."""
    start_timeout_s: float | None
    """How long the first models may take to become available."""


@dataclass(frozen=True)
class StorageOptions:
    """Where versions lie, and when one counts as complete."""

    cache_folder: str
    """Absolute; made when it is first needed."""
    cache_bytes: int | None = None
    """`None` leaves it to the disk."""
    marker_file: str | None = None
    """What a version must have to count; `None`: it has to stand still for `settle_s` instead."""
    settle_s: float = 1.0
    remote_period_s: float = 30.0
    """How often to list an object store, at most."""


@dataclass(frozen=True)
class LoadingOptions:
    """How versions are loaded and unloaded."""

    retries: int
    retry_interval_s: float
    load_threads: int
    unload_threads: int
    transition: Transition
    lazy: bool
    memory_limit_bytes: int | None
    """Most memory that all versions may take together, as estimated."""
    check_available_memory: bool
    release_period_s: float | None
    """How often to give memory that requests have freed back to the system; `None` for only after an unload."""
    op_libraries: tuple[str, ...]


@dataclass(frozen=True)
class Config:
    """One run of the server."""

    server: ServerSpec
    """Without the path of the metrics, which a file tells."""
    models: ModelOptions
    storage: StorageOptions
    loading: LoadingOptions
    session: SessionOptions
    warmup: WarmupOptions
    batching: BatchingOptions
    platform_file: str | None
    """If there is one, of `session` and `batching` nothing matters but the number of processors."""
    thread_pool_file: str | None
    monitoring_file: str | None
    request_log: RequestLogOptions
    drain_grace_s: float
    """How long requests are still accepted once a stop is asked for."""
    drain_timeout_s: float
    tls: TlsOptions = field(default_factory=TlsOptions)
    access_file: str | None = None
    security_period_s: float | None = None
    """How often to look whether files of `tls` and access have changed; `None` for never."""
    errors: tuple[str, ...] = ()
    """What to log as errors at start-up although the server runs."""
    notes: tuple[str, ...] = ()
    """What to log at start-up because it may surprise."""


@dataclass(frozen=True)
class PlatformSpec:
    """How the models of one platform are loaded."""

    session: SessionSpec
    batching: PlatformBatching
    options: PlatformOptions | None = None
    """What a platform file says; `None` if flags say it."""


@dataclass(frozen=True)
class Files:
    """What the files say that the flags name."""

    models: tuple[ModelConfig, ...]
    platforms: Mapping[str, PlatformSpec]
    """The platforms that models may name."""
    metrics_path: str | None
    notes: tuple[str, ...] = ()
    """What to log at start-up because it may surprise."""


def config_from(
    flags: FlagValues,
    models: Sequence[ModelConfig] = (),
    *,
    environment: Mapping[str, str] = os.environ,
    processors: int | None = None,
) -> Config:
    """The configuration that the flags describe. `models` are served if the flags name none.

    `processors` are what this process may use, `None` for as many as it may.

    Reads no file and changes nothing; `InvalidArgumentError` if the flags contradict one another.
    """
    given: Mapping[str, Any] = flags
    values: Mapping[str, Any] = {option.name: option.default for option in OPTIONS} | dict(given)
    if not values["port"] and not values["grpc_socket_path"]:
        raise InvalidArgumentError(
            "At least one of server_options.grpc_port or server_options.grpc_socket_path must be set."
        )
    if values["use_alts_credentials"] and values["ssl_config_file"]:
        raise InvalidArgumentError("Either use_alts_credentials must be false or ssl_config_file must be empty.")
    if values["use_alts_credentials"]:
        raise UnimplementedError(
            "--use_alts_credentials: ALTS is not supported; TLS is, by --tls_certificate_file and --tls_key_file"
        )
    if values["model_base_path"]:
        models = (ModelConfig(values["model_name"], values["model_base_path"]),)
    elif not (values["model_config_file"] or models or values["admin_port"] or values["model_state_file"]):
        raise InvalidArgumentError(
            "Both server_options.model_base_path and server_options.model_config_file are empty!"
        )
    if "model_config_list_root_dir" in given and not is_absolute(values["model_config_list_root_dir"]):
        raise InvalidArgumentError(
            "Expected non-empty absolute path or URI; got model_config_list_root_dir="
            f"{values['model_config_list_root_dir']}"
        )
    platform_file = values["platform_config_file"] or None
    if values["batching_parameters_file"] and not values["enable_batching"] and not platform_file:
        raise InvalidArgumentError(
            "server_options.batching_parameters_file is set without setting server_options.enable_batching to true."
        )
    for name in ("port", "rest_api_port", "admin_port"):
        if values["monitoring_port"] == values[name] != 0:
            raise InvalidArgumentError(f"--monitoring_port and --{name} are both {values[name]}")
    traces, without_traces = _traces(environment)
    arguments = channel_arguments(values["grpc_channel_arguments"])
    if values["max_message_bytes"] is None:
        values = {**values, "max_message_bytes": arguments.max_message_bytes}
    clash = values["rest_api_port"] == values["port"] != 0
    return Config(
        server=replace(_server(values, with_rest=not clash), traces=traces, grpc=arguments.connections),
        models=_models(values, models),
        storage=_storage(values, environment),
        loading=LoadingOptions(
            retries=values["max_num_load_retries"],
            retry_interval_s=max(0, values["load_retry_interval_micros"]) / 1e6,
            load_threads=max(1, values["num_load_threads"]),
            unload_threads=max(1, values["num_unload_threads"]),
            transition=_transition(values["version_transition"]),
            lazy=values["lazy_loading"],
            memory_limit_bytes=values["total_model_memory_limit_bytes"] or None,
            check_available_memory=values["check_available_memory"],
            release_period_s=values["memory_release_seconds"] or None,
            op_libraries=values["custom_op_library"],
        ),
        session=SessionOptions(
            tags=tuple(tag for tag in values["saved_model_tags"].split(",") if tag) or ("serve",),
            config_file=values["tensorflow_session_config_file"] or None,
            parallelism=given.get("tensorflow_session_parallelism"),
            intra_op_parallelism=given.get("tensorflow_intra_op_parallelism"),
            inter_op_parallelism=given.get("tensorflow_inter_op_parallelism"),
            gpu_memory_fraction=given.get("per_process_gpu_memory_fraction"),
            bfloat16=values["mixed_precision"] == BFLOAT16,
        ),
        warmup=WarmupOptions(
            enabled=values["enable_model_warmup"],
            iterations=max(1, values["num_request_iterations_for_warmup"]),
            synthesize=values["synthesize_warmup"],
            batch_sizes=batch_sizes("synthesize_warmup_batch_sizes", values["synthesize_warmup_batch_sizes"]),
            check_method_names=values["enable_signature_method_name_check"],
        ),
        batching=BatchingOptions(
            enabled=values["enable_batching"],
            file=values["batching_parameters_file"] or None,
            per_version=values["enable_batching"] and values["enable_per_model_batching_parameters"],
            latency_slo_ms=values["latency_slo_ms"] or None,
            fallback=values["unbatched_fallback"],
            processors=processors or _processors(),
        ),
        platform_file=platform_file,
        thread_pool_file=values["thread_pool_factory_config_file"] or None,
        request_log=RequestLogOptions(
            spool_folder=_folder("request_log_spool_dir", "request-log", values, environment),
            spool_bytes=values["request_log_spool_bytes"],
            file_bytes=values["request_log_file_bytes"],
            file_seconds=values["request_log_file_seconds"],
            keep_bytes=values["request_log_keep_bytes"],
            collectors=request_log.collectors(values["request_log_collector"]),
            roots=request_log.roots(values["request_log_root"]),
        ),
        monitoring_file=values["monitoring_config_file"] or None,
        drain_grace_s=values["drain_grace_seconds"],
        drain_timeout_s=values["drain_timeout_seconds"],
        tls=TlsOptions(
            ssl_config_file=values["ssl_config_file"] or None,
            certificate_file=values["tls_certificate_file"] or None,
            key_file=values["tls_key_file"] or None,
            client_ca_file=values["tls_client_ca_file"] or None,
        ),
        access_file=values["access_config_file"] or None,
        security_period_s=values["tls_reload_wait_seconds"] or None,
        errors=(
            *((f"REST is off: --rest_api_port and --port are both {values['port']}",) if clash else ()),
            *without_traces,
        ),
        notes=(
            *_notes(values),
            *(f"{name} in --grpc_channel_arguments has no effect here" for name in arguments.without_effect),
            *(_ignored(given) if platform_file else ()),
        ),
    )


@dataclass(frozen=True)
class LogOptions:
    """How the server logs."""

    format: LogFormat
    level: LogLevel


def log_options(flags: FlagValues) -> LogOptions:
    """What the flags say of the log, which is wanted before anything else is."""
    format_, level = flags.get("log_format", "text"), flags.get("log_level", "info")
    try:
        return LogOptions(LogFormat(format_), LogLevel(level))
    except ValueError:
        raise InvalidArgumentError(
            f"--log_format={format_} --log_level={level}: it has to be text or json; and debug, info, warning or error"
        ) from None


def batch_sizes(name: str, text: str) -> tuple[int, ...]:
    """The numbers in a text such as `1,8,32`, which is the value of the flag `name`."""
    if not re.fullmatch(r"[1-9][0-9]{0,8}(,[1-9][0-9]{0,8})*", text):
        raise InvalidArgumentError(f"--{name} takes numbers from 1 on, separated by commas, and not {text!r}")
    return tuple(int(size) for size in text.split(","))


def _processors() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _server(values: Mapping[str, Any], *, with_rest: bool) -> ServerSpec:
    host = values["bind_host"]
    timeout_ms = values["rest_api_timeout_in_ms"]
    return ServerSpec(
        grpc_address=_address(host or "0.0.0.0", values["port"]),
        grpc_socket_path=values["grpc_socket_path"] or None,
        grpc_socket_mode=_mode(values["grpc_socket_mode"]),
        rest_address=_address(host or "::", values["rest_api_port"]) if with_rest else None,
        admin_address=_address(values["admin_bind_host"], values["admin_port"]),
        monitoring_address=_address(values["monitoring_bind_host"] or "::", values["monitoring_port"]),
        rest_timeout_ms=timeout_ms if timeout_ms > 0 else None,
        cors=values["rest_api_enable_cors_support"],
        check_method_names=values["enable_signature_method_name_check"],
        tensor_content=values["enable_serialization_as_tensor_content"],
        health_service=values["enable_grpc_healthcheck_service"],
        profiler=values["enable_profiler"],
        session_service=values["enable_session_service"],
        allow_labels=values["allow_version_labels"],
        strict_json=values["rest_api_strict_json"],
        compress_answers=values["enable_response_compression"],
        access_log=values["access_log"] or None,
        access_log_json=values["log_format"] == LogFormat.JSON.value,
        max_threads=values["grpc_max_threads"] or None,
        limits=LimitSpec(**{name: values[name] for name in LimitSpec.__dataclass_fields__}),
    )


def _traces(environment: Mapping[str, str]) -> tuple[str | None, Sequence[str]]:
    """The protocol of traces, and why there are none. A cluster puts the same variables into every container's
    environment: what is not supported there is no reason not to serve."""
    try:
        return tracing.traces(environment), ()
    except InvalidArgumentError as error:
        return None, (f"There are no traces: {error.message}",)


def _mode(text: str) -> int | None:
    if not text:
        return None
    if not re.fullmatch(r"0?[0-7]{3}", text):
        raise InvalidArgumentError(f"--grpc_socket_mode={text}: it has to be three octal digits, such as 0660")
    return int(text, 8)


def _address(host: str, port: int) -> str | None:
    bracketed = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return f"{bracketed}:{port}" if port else None


def _models(values: Mapping[str, Any], models: Sequence[ModelConfig]) -> ModelOptions:
    config_period_s = values["model_config_file_poll_wait_seconds"]
    scan_period_s = values["file_system_poll_wait_seconds"]
    return ModelOptions(
        fixed=tuple(models),
        config_file=values["model_config_file"] or None,
        config_file_period_s=config_period_s if config_period_s > 0 else None,
        scan_period_s=scan_period_s if scan_period_s > 0 else None,
        scan=scan_period_s >= 0,
        versions_always_present=values["servable_versions_always_present"],
        fail_without_versions=values["fail_if_zero_versions_at_startup"],
        labels=_label_rule(values),
        root=values["model_config_list_root_dir"],
        state_file=values["model_state_file"] or None,
        start_timeout_s=values["servable_state_waiter_timeout_seconds"] or None,
    )


def _transition(text: str) -> Transition:
    try:
        return Transition(text)
    except ValueError:
        known = " or ".join(transition.value for transition in Transition)
        raise InvalidArgumentError(f"--version_transition={text}: it has to be {known}") from None


def _label_rule(values: Mapping[str, Any]) -> LabelRule:
    if not values["allow_version_labels"]:
        return LabelRule.NONE
    if values["force_allow_any_version_labels_for_unavailable_models"]:
        return LabelRule.ANY
    return LabelRule.NEW if values["allow_version_labels_for_unavailable_models"] else LabelRule.AVAILABLE


def _ignored(given: Mapping[str, Any]) -> Sequence[str]:
    """What flags are given that a platform file speaks instead of."""
    groups = {option.name: option.group for option in OPTIONS if option.name not in BESIDE_PLATFORM_FILE}
    return [
        f"--{name} is ignored: the file of --platform_config_file decides"
        for name in given
        if groups.get(name) in (Group.TENSORFLOW, Group.BATCHING)
    ]


def _storage(values: Mapping[str, Any], environment: Mapping[str, str]) -> StorageOptions:
    return StorageOptions(
        cache_folder=_folder("model_cache_dir", "models", values, environment),
        cache_bytes=values["model_cache_bytes"] or None,
        marker_file=values["version_marker_file"] or None,
        settle_s=values["version_settle_seconds"],
        remote_period_s=values["remote_poll_wait_seconds"],
    )


def _folder(name: str, usual: str, values: Mapping[str, Any], environment: Mapping[str, str]) -> str:
    """The folder that the flag `name` gives, or the `usual` one among our caches."""
    folder: str = values[name] or os.path.join(_cache_folder(environment), usual)
    if not folder.startswith("/"):
        raise InvalidArgumentError(f"Expected an absolute path in --{name}; got {folder}")
    return folder


def _cache_folder(environment: Mapping[str, str]) -> str:
    base = environment.get("XDG_CACHE_HOME", "")
    if not base.startswith("/"):  # the specification of XDG has relative paths ignored
        base = os.path.join(environment.get("HOME") or "/", ".cache")
    return os.path.join(base, "servable")


def _notes(values: Mapping[str, Any]) -> Sequence[str]:
    notes = [
        f"--{option.name} has no effect: {option.sentence}"
        for option in OPTIONS
        if option.support is Support.WITHOUT_EFFECT and values[option.name] != option.default
    ]
    if values["mixed_precision"] not in ("", BFLOAT16):
        notes.append(f"--mixed_precision={values['mixed_precision']} has no effect: only {BFLOAT16} is known")
    if values["enable_per_model_batching_parameters"] and not values["enable_batching"]:
        notes.append("--enable_per_model_batching_parameters has no effect without --enable_batching")
    return notes


def read_files(config: Config, codec: Codec) -> Files:
    """Read the files that the flags name. `ServableError` if one is missing or malformed."""
    models = config.models.fixed
    if config.models.config_file:
        models = read_models(config.models.config_file, codec) or ()
    platforms, notes = _platforms(config, codec)
    if config.thread_pool_file:
        _parse(
            config.thread_pool_file,
            platform_config.THREAD_POOLS,
            lambda text: platform_config.check_thread_pools(text, codec),
        )
    metrics_path: str | None = monitoring_config.DEFAULT_PATH
    if config.monitoring_file and (config.server.rest_address or config.server.monitoring_address):
        metrics_path = _parse(
            config.monitoring_file,
            monitoring_config.MESSAGE,
            lambda text: monitoring_config.metrics_path(text, codec),
        )
    return Files(models, platforms, metrics_path, notes)


def _platforms(config: Config, codec: Codec) -> tuple[dict[str, PlatformSpec], tuple[str, ...]]:
    """The platforms, and what may surprise about them."""

    def spec(tags: Sequence[str], session: bytes) -> SessionSpec:
        return SessionSpec(tags, session, quiet=not has_own_threads(session, codec))

    if config.platform_file:
        options = _parse(
            config.platform_file, platform_config.MESSAGE, lambda text: platform_config.from_text(text, codec)
        )
        notes = [
            f"{config.platform_file}: {field} of platform {name} has no effect"
            for name, platform in options.items()
            for field in platform.ignored
        ]
        specs = {
            name: PlatformSpec(
                spec(one.tags, one.session),
                PlatformBatching(name, config.batching.processors, one.batching, one.per_version_batching),
                one,
            )
            for name, one in options.items()
        }
        return specs, tuple(notes)
    parameters = _parse(
        config.batching.file, batching.MESSAGE, lambda text: batching.from_flags(config.batching, text, codec)
    )
    session = _parse(
        config.session.config_file,
        session_config.MESSAGE,
        lambda text: session_config.session_config(config.session, text, codec),
    )
    batched = PlatformBatching(
        "tensorflow",
        config.batching.processors,
        parameters,
        config.batching.per_version,
        config.batching.fallback,
    )
    return {"tensorflow": PlatformSpec(spec(config.session.tags, session), batched)}, ()


def read_models(path: str, codec: Codec) -> tuple[ModelConfig, ...] | None:
    """The models in a configuration file; `None` if it holds no list."""
    return _parse(path, model_config.MESSAGE, lambda text: model_config.from_text(text, codec, path))


def _parse(path: str | None, message: str, parse: Callable[[str], T]) -> T:
    """What `parse` makes of a file's text; of no text if there is no file."""
    try:
        text = ""
        if path is not None:
            with open(path, encoding="utf-8") as file:
                text = file.read()
        return parse(text)
    except OSError as error:
        raise reading(path or "", error) from error
    except ValueError as error:
        raise MalformedFileError(path or "", message, str(error)) from error
