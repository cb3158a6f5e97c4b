"""Everything one run of the server is told, as one frozen value made from the flags."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from servable.config import model_config, monitoring_config, session_config
from servable.config.codec import Codec
from servable.config.flags import FlagValues
from servable.config.model_config import ModelConfig
from servable.config.options import OPTIONS, Support
from servable.config.session_config import SessionOptions, has_own_threads
from servable.errors import InvalidArgumentError, MalformedFileError, reading
from servable.types import LimitSpec, ServerSpec, SessionSpec

__all__ = [
    "Config",
    "Files",
    "LoadingOptions",
    "ModelOptions",
    "StorageOptions",
    "config_from",
    "read_files",
    "read_models",
]

T = TypeVar("T")


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
    allow_labels_for_unavailable: bool


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
    monitoring_file: str | None
    drain_timeout_s: float
    errors: tuple[str, ...] = ()
    """What to log as errors at start-up although the server runs."""
    notes: tuple[str, ...] = ()
    """What to log at start-up because it may surprise."""


@dataclass(frozen=True)
class Files:
    """What the files say that the flags name."""

    models: tuple[ModelConfig, ...]
    session: SessionSpec
    metrics_path: str | None


def config_from(
    flags: FlagValues, models: Sequence[ModelConfig] = (), *, environment: Mapping[str, str] = os.environ
) -> Config:
    """The configuration that the flags describe. `models` are served if the flags name none.

    Reads no file and changes nothing; `InvalidArgumentError` if the flags contradict one another.
    """
    given: Mapping[str, Any] = flags
    values: Mapping[str, Any] = {option.name: option.default for option in OPTIONS} | dict(given)
    if not values["port"] and not values["grpc_socket_path"]:
        raise InvalidArgumentError(
            "At least one of server_options.grpc_port or server_options.grpc_socket_path must be set."
        )
    if values["model_base_path"]:
        models = (ModelConfig(values["model_name"], values["model_base_path"]),)
    elif not values["model_config_file"] and not models:
        raise InvalidArgumentError(
            "Both server_options.model_base_path and server_options.model_config_file are empty!"
        )
    clash = values["rest_api_port"] == values["port"] != 0
    return Config(
        server=_server(values, with_rest=not clash),
        models=_models(values, models),
        storage=_storage(values, environment),
        loading=LoadingOptions(
            retries=values["max_num_load_retries"],
            retry_interval_s=max(0, values["load_retry_interval_micros"]) / 1e6,
            load_threads=max(1, values["num_load_threads"]),
            unload_threads=max(1, values["num_unload_threads"]),
            op_libraries=values["custom_op_library"],
        ),
        session=SessionOptions(
            tags=tuple(tag for tag in values["saved_model_tags"].split(",") if tag) or ("serve",),
            config_file=values["tensorflow_session_config_file"] or None,
            parallelism=given.get("tensorflow_session_parallelism"),
            intra_op_parallelism=given.get("tensorflow_intra_op_parallelism"),
            inter_op_parallelism=given.get("tensorflow_inter_op_parallelism"),
            gpu_memory_fraction=given.get("per_process_gpu_memory_fraction"),
        ),
        monitoring_file=values["monitoring_config_file"] or None,
        drain_timeout_s=values["drain_timeout_seconds"],
        errors=(f"REST is off: --rest_api_port and --port are both {values['port']}",) if clash else (),
        notes=tuple(_notes(values)),
    )


def _server(values: Mapping[str, Any], *, with_rest: bool) -> ServerSpec:
    host = values["bind_host"]
    timeout_ms = values["rest_api_timeout_in_ms"]
    return ServerSpec(
        grpc_address=_address(host or "0.0.0.0", values["port"]),
        grpc_socket_path=values["grpc_socket_path"] or None,
        rest_address=_address(host or "::", values["rest_api_port"]) if with_rest else None,
        rest_timeout_ms=timeout_ms if timeout_ms > 0 else None,
        cors=values["rest_api_enable_cors_support"],
        check_method_names=values["enable_signature_method_name_check"],
        tensor_content=values["enable_serialization_as_tensor_content"],
        health_service=values["enable_grpc_healthcheck_service"],
        session_service=values["enable_session_service"],
        strict_json=values["rest_api_strict_json"],
        compress_answers=values["enable_response_compression"],
        max_threads=values["grpc_max_threads"] or None,
        limits=LimitSpec(**{name: values[name] for name in LimitSpec.__dataclass_fields__}),
    )


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
        allow_labels_for_unavailable=values["allow_version_labels_for_unavailable_models"],
    )


def _storage(values: Mapping[str, Any], environment: Mapping[str, str]) -> StorageOptions:
    folder = values["model_cache_dir"] or _cache_folder(environment)
    if not folder.startswith("/"):
        raise InvalidArgumentError(f"Expected an absolute path in --model_cache_dir; got {folder}")
    return StorageOptions(
        cache_folder=folder,
        cache_bytes=values["model_cache_bytes"] or None,
        marker_file=values["version_marker_file"] or None,
        settle_s=values["version_settle_seconds"],
        remote_period_s=values["remote_poll_wait_seconds"],
    )


def _cache_folder(environment: Mapping[str, str]) -> str:
    base = environment.get("XDG_CACHE_HOME", "")
    if not base.startswith("/"):  # the specification of XDG has relative paths ignored
        base = os.path.join(environment.get("HOME") or "/", ".cache")
    return os.path.join(base, "servable", "models")


def _notes(values: Mapping[str, Any]) -> Sequence[str]:
    return [
        f"--{option.name} has no effect: {option.sentence}"
        for option in OPTIONS
        if option.support is Support.WITHOUT_EFFECT and values[option.name] != option.default
    ]


def read_files(config: Config, codec: Codec) -> Files:
    """Read the files that the flags name. `ServableError` if one is missing or malformed."""
    models = config.models.fixed
    if config.models.config_file:
        models = read_models(config.models.config_file, codec) or ()
    session = _parse(
        config.session.config_file,
        session_config.MESSAGE,
        lambda text: session_config.session_config(config.session, text, codec),
    )
    metrics_path = None
    if config.monitoring_file and config.server.rest_address:
        metrics_path = _parse(
            config.monitoring_file,
            monitoring_config.MESSAGE,
            lambda text: monitoring_config.metrics_path(text, codec),
        )
    quiet = not has_own_threads(session, codec)
    return Files(models, SessionSpec(config.session.tags, session, quiet), metrics_path)


def read_models(path: str, codec: Codec) -> tuple[ModelConfig, ...] | None:
    """The models in a configuration file; `None` if it holds no list."""
    return _parse(path, model_config.MESSAGE, lambda text: model_config.from_text(text, codec))


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
