"""Changing the list of models: one path for start-up, the RPC and the watched file."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Sequence

from servable.config.codec import Codec
from servable.config.model_config import ModelConfig, check_labels, check_list, check_platforms, from_json
from servable.errors import FailedPreconditionError, InvalidArgumentError, MalformedFileError, ServableError
from servable.models.manager import Failure, Manager, Resolution
from servable.models.source import FileSystemSource
from servable.types import State

__all__ = ["Reloader", "answer_reload", "unavailable", "watch_config_file"]

log = logging.getLogger(__name__)


class Reloader:
    """Owns the list of models that are configured. Its methods are called from any thread, one call at a time works."""

    def __init__(
        self,
        *,
        manager: Manager,
        source: FileSystemSource,
        platforms: Collection[str],
        check_base_path: Callable[[str], None] = lambda base_path: None,
        allow_unavailable_labels: bool = False,
    ) -> None:
        self._manager = manager
        self._source = source
        self._platforms = platforms
        self._check_base_path = check_base_path
        self._allow_unavailable_labels = allow_unavailable_labels
        self._reloading = threading.Lock()  # guards what follows; held while a reload waits for its models
        self._models: tuple[ModelConfig, ...] = ()
        self._confirmed: frozenset[str] = frozenset()

    @property
    def models(self) -> tuple[ModelConfig, ...]:
        """What is configured at the moment."""
        return self._models

    def start(self, models: Sequence[ModelConfig]) -> Resolution:
        """Configure the first list; does not wait for its models to become available."""
        with self._reloading:
            self._apply(models)
            self._confirmed = frozenset(model.name for model in models)
            return self._manager.watch(self._confirmed, patient=True)

    def reload(self, models: Sequence[ModelConfig] | None) -> None:
        """Replace the list, and wait until every model that is new to it has become available.

        A list that is refused changes nothing. If a new model does not become available the list holds nevertheless;
        reloading it again waits, and fails, again.
        """
        if models is None:
            raise FailedPreconditionError(
                "Cannot transition to requested config. It is only legal to transition from one ModelConfigList to "
                "another."
            )
        with self._reloading:
            self._apply(models)
            names = [model.name for model in models]
            new = [name for name in names if name not in self._confirmed]
            resolution = self._manager.watch(new, patient=False)
            resolution.wait()
            self._confirmed = frozenset(names) - {failure.name for failure in resolution.failures}
        if resolution.failures:
            raise unavailable("model(s)", resolution.failures)

    def _apply(self, models: Sequence[ModelConfig]) -> None:
        """Check the list and pass it on."""
        check_list(models, self._models)
        check_labels(
            models,
            before=self._models,
            available={
                name: [version.version for version in routes.versions if version.state == State.AVAILABLE.name]
                for name, routes in self._manager.routes.items()
            },
            allow_unavailable=self._allow_unavailable_labels,
        )
        check_platforms(models, self._platforms)
        for model in models:
            self._check_base_path(model.base_path)
        log.info("Adding/updating models.")
        for model in models:
            log.info(" (Re-)adding model: %s", model.name)
        self._models = tuple(models)
        self._manager.label({model.name: model.labels for model in models})
        self._source.replace(models)
        log.info("Finished adding/updating models")


def unavailable(what: str, failures: Sequence[Failure]) -> ServableError:
    """The error for models that did not become available, in the words that TensorFlow Serving has for it."""
    listed = "".join(f"{failure}, " for failure in failures)
    return ServableError(f"{len(failures)} {what} did not become available: {{{listed}}}")


def answer_reload(request: bytes, reloader: Reloader, codec: Codec) -> bytes:
    """Do what a serialised `ReloadConfigRequest` asks for. Returns the response; `ServableError` if it cannot be."""
    import json

    try:
        try:
            decoded = json.loads(codec.decode_message("tensorflow.serving.ReloadConfigRequest", request))
        except ValueError as error:
            raise InvalidArgumentError(f"The request is no ReloadConfigRequest: {error}") from error
        models = from_json(decoded.get("config", {}))
        if models is None:
            raise InvalidArgumentError(
                "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is currently "
                "supported"
            )
        for index, model in enumerate(models, 1):
            log.info(
                "Config entry index: %s path: %s name: %s platform: %s",
                index,
                model.base_path,
                model.name,
                model.platform,
            )
        reloader.reload(models)
    except ServableError as error:
        log.error("ReloadConfig failed: %s", error.message)
        raise
    metrics = [{"name": name, "int64_value_increase": 0} for name in dict.fromkeys(decoded.get("metric_names", ()))]
    return codec.encode_json("tensorflow.serving.ReloadConfigResponse", json.dumps({"status": {}, "metric": metrics}))


def watch_config_file(
    read: Callable[[], Sequence[ModelConfig] | None], reloader: Reloader, period_s: float, stopped: threading.Event
) -> None:
    """Apply what `read` gives once per period until `stopped`; an error is logged once and changes nothing."""
    complaint = ""
    while not stopped.wait(period_s):
        failed = ""
        try:
            models = read()
            is_new = tuple(models or ()) != reloader.models  # an empty file is the list without models
            if is_new or complaint:
                reloader.reload(models)
        except MalformedFileError as error:
            failed = f"Failed to read ModelServerConfig file: {error.message}: {error.detail}"
        except ServableError as error:
            failed = f"PollFilesystemAndReloadConfig failed to ReloadConfig: {error.message}"
        if failed and failed != complaint:
            log.error(failed)
        complaint = failed
