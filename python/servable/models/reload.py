"""Changing the list of models: one path for start-up, the RPC, the watched file and the admin port."""

from __future__ import annotations

import enum
import logging
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from servable.config.codec import Codec
from servable.config.model_config import (
    LabelRule,
    ModelConfig,
    check_labels,
    check_list,
    check_platforms,
    from_json,
    rooted,
)
from servable.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    MalformedFileError,
    NotFoundError,
    ServableError,
)
from servable.models.manager import Manager
from servable.models.metric_values import first_values
from servable.models.overlay import Origin, Overlay
from servable.models.resolution import Failure, Resolution
from servable.models.source import FileSystemSource
from servable.models.state_file import StateFile
from servable.types import State, VersionRoute

__all__ = ["Listed", "Look", "Reloader", "Started", "answer_reload", "unavailable", "watch_config_file"]

log = logging.getLogger(__name__)


class Look(enum.Enum):
    """Why to look at the configuration file again."""

    PERIODIC = "it is time"
    ASKED = "somebody wants it"
    NONE = "no more"


@dataclass(frozen=True)
class Listed:
    """A model that is configured, and on whose behalf."""

    model: ModelConfig
    origin: Origin


@dataclass(frozen=True)
class Started:
    """What becomes of the first models."""

    configured: Resolution
    restored: Resolution
    """Those that were added at run time before the last end of the process; one attempt is waited for."""


class Reloader:
    """Owns the list of models that are configured: a base, and over it the changes made through the admin port.

    The base is replaced as a whole, by the RPC and by the watched file. The RPC drops the changes, since its list is
    the whole list; the file does not. Methods are called from any thread; changes come one after the other, waits for
    models side by side.
    """

    def __init__(
        self,
        *,
        manager: Manager,
        source: FileSystemSource,
        platforms: Collection[str],
        check_base_path: Callable[[str], None] = lambda base_path: None,
        labels: LabelRule = LabelRule.AVAILABLE,
        root: str = "",
        state: StateFile | None = None,
        prepare_log: Callable[[Sequence[ModelConfig]], Callable[[], None]] = lambda models: lambda: None,
    ) -> None:
        self._manager = manager
        self._source = source
        self._platforms = platforms
        self._check_base_path = check_base_path
        self._label_rule = labels
        self._root = root
        self._state = state
        self._prepare_log = prepare_log
        self._changing = threading.Lock()  # guards changes of what follows, which may wait for files; all are values
        self._base: tuple[ModelConfig, ...] = ()
        self._origin = Origin.FLAGS
        self._overlay = Overlay()
        self._models: tuple[ModelConfig, ...] = ()
        self._listed: tuple[Listed, ...] = ()
        self._confirmed: frozenset[str] = frozenset()

    @property
    def models(self) -> tuple[ModelConfig, ...]:
        """What is configured at the moment."""
        return self._models

    @property
    def listed(self) -> tuple[Listed, ...]:
        """What is configured at the moment, and on whose behalf. Never waits."""
        return self._listed

    @property
    def removed(self) -> frozenset[str]:
        """Models that were removed through the admin port: not served even if the base has them. Never waits."""
        return self._overlay.removed

    def start(self, models: Sequence[ModelConfig], origin: Origin = Origin.FLAGS, *, patient: bool = True) -> Started:
        """Configure the first list and what was changed before; does not wait for models to become available.

        A model of the list without any version has failed, unless `patient`.
        """
        with self._changing:
            base = rooted(models, self._root)
            overlay = self._state.read() if self._state else Overlay()
            self._overlay = overlay
            self._change(base, overlay, origin, labelled=overlay.untouched(base))
            configured = [model.name for model in self._models if model.name not in overlay.models]
            self._confirmed = frozenset(configured)
            return Started(
                self._manager.watch(configured, patient=patient),
                self._manager.watch(overlay.models, patient=False, hasty=True),
            )

    def is_news(self, models: Sequence[ModelConfig]) -> bool:
        """Whether this list is another one than the base."""
        return rooted(models, self._root) != self._base

    def reload(
        self, models: Sequence[ModelConfig] | None, origin: Origin = Origin.CONFIG_FILE, *, wait: bool = True
    ) -> None:
        """Replace the base, and `wait` until every model that is new to it has become available.

        A list that is refused changes nothing. If a new model does not become available the list holds nevertheless;
        reloading it again waits, and fails, again.
        """
        if models is None:
            raise FailedPreconditionError(
                "Cannot transition to requested config. It is only legal to transition from one ModelConfigList to "
                "another."
            )
        with self._changing:
            base = rooted(models, self._root)
            overlay = Overlay() if origin is Origin.RELOAD else self._overlay
            self._change(base, overlay, origin, labelled=overlay.untouched(base))
            unknown = {model.name for model in self._models} - self._confirmed - overlay.models.keys()
            new = [model.name for model in base if model.name in unknown]
            resolution = self._manager.watch(new, patient=False)
        if not wait:
            return
        resolution.wait()
        self._confirm(new, resolution)
        if resolution.failures:
            raise unavailable("model(s)", resolution.failures)

    def add(self, model: ModelConfig) -> Resolution:
        """Configure one model, in the place of the one of its name if there is one. Adding it again does no harm.

        Whoever wants it to be available waits for the resolution; the model is configured whatever becomes of it.
        """
        with self._changing:
            (model,) = rooted([model], self._root)
            kept = next((known.labels for known in self._models if known.name == model.name), {})
            labels = {label: version for label, version in model.labels.items() if kept.get(label) != version}
            overlay = self._overlay.with_model(model)
            self._change(self._base, overlay, self._origin, labelled=[replace(model, labels=labels)])
            return self._manager.watch([model.name], patient=False)

    def remove(self, name: str) -> None:
        """Let go of one model. `NOT_FOUND` if it is not configured."""
        with self._changing:
            self._configured(name)
            overlay = self._overlay.without_model(name, {model.name for model in self._base})
            self._change(self._base, overlay, self._origin, labelled=[])
        self._settle()

    def label(self, name: str, label: str, version: int | None) -> None:
        """Let a label point at a version of a model, or at none. `NOT_FOUND` if the model is not configured."""
        with self._changing:
            model = self._configured(name)
            if version is None and label not in model.labels:
                raise NotFoundError(f"Model {name} has no label {label}")
            labels = {} if version is None else {label: version}
            overlay = self._overlay.with_label(name, label, version)
            self._change(self._base, overlay, self._origin, labelled=[replace(model, labels=labels)])
        self._settle()

    def _configured(self, name: str) -> ModelConfig:
        for model in self._models:
            if model.name == name:
                return model
        raise NotFoundError(f"Model {name} is not configured")

    def _settle(self) -> None:
        """Wait until what was changed is published, so that the caller's next request meets it."""
        self._manager.watch((), patient=False).wait()

    def _confirm(self, names: Collection[str], resolution: Resolution) -> None:
        failed = {failure.name for failure in resolution.failures}
        with self._changing:
            self._confirmed |= frozenset(names) - failed
            self._confirmed &= frozenset(model.name for model in self._models)

    def _change(
        self, base: Sequence[ModelConfig], overlay: Overlay, origin: Origin, *, labelled: Sequence[ModelConfig]
    ) -> None:
        """Check the list and pass it on. Labels are only checked for models in `labelled`: versions come and go."""
        models = overlay.over(base)
        check_list(models, self._models)
        check_labels(
            labelled,
            before=self._models,
            available={
                name: [version.version for version in routes.versions if _is_available(version)]
                for name, routes in self._manager.routes.items()
            },
            rule=self._label_rule,
        )
        check_platforms(models, self._platforms)
        for model in models:
            self._check_base_path(model.base_path)
        log_requests = self._prepare_log(models)
        if self._state and overlay != self._overlay:
            self._state.write(overlay)
        log.info("Adding/updating models.")
        for model in models:
            log.info(" (Re-)adding model: %s", model.name)
        self._base, self._overlay, self._origin, self._models = tuple(base), overlay, origin, models
        self._listed = tuple(
            Listed(model, Origin.ADMIN if model.name in overlay.models else origin) for model in models
        )
        self._confirmed &= frozenset(model.name for model in models)
        self._manager.configure(models)
        log_requests()
        self._source.replace(models)
        log.info("Finished adding/updating models")


def _is_available(version: VersionRoute) -> bool:
    """Whether requests are answered by this version, if need be after it was loaded for them."""
    return version.state == State.AVAILABLE.name or (version.on_demand and version.error_code == "OK")


def unavailable(what: str, failures: Sequence[Failure]) -> ServableError:
    """The error for models that did not become available, in the words that TensorFlow Serving has for it."""
    listed = "".join(f"{failure}, " for failure in failures)
    return ServableError(f"{len(failures)} {what} did not become available: {{{listed}}}")


def answer_reload(request: bytes, reloader: Reloader, codec: Codec, metrics_page: Callable[[], str]) -> bytes:
    """Do what a serialised `ReloadConfigRequest` asks for. Returns the response; `ServableError` if it cannot be.

    `metrics_page` gives the page of metrics, which tells by how much those have grown that the request names.
    """
    import json

    try:
        try:
            decoded = json.loads(codec.decode_message("tensorflow.serving.ReloadConfigRequest", request))
        except ValueError as error:
            raise InvalidArgumentError(f"The request is no ReloadConfigRequest: {error}") from error
        config = decoded.get("config", {})
        models = None if "custom_model_config" in config else from_json(config)
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
        names = tuple(dict.fromkeys(decoded.get("metric_names", ())))
        before = first_values(metrics_page(), names) if names else {}
        reloader.reload(models, Origin.RELOAD)
        after = first_values(metrics_page(), names) if names else {}
    except ServableError as error:
        log.warning("ReloadConfig failed: %s", error.message)
        raise
    metrics = [{"name": name, "int64_value_increase": after[name] - before[name]} for name in names]
    return codec.encode_json("tensorflow.serving.ReloadConfigResponse", json.dumps({"status": {}, "metric": metrics}))


def watch_config_file(
    read: Callable[[], Sequence[ModelConfig] | None], reloader: Reloader, next_look: Callable[[], Look]
) -> None:
    """Apply what `read` gives at each look, for which `next_look` waits.

    An error changes nothing. It is logged once, but whenever somebody has asked for the look.
    """
    complaint = ""
    while (look := next_look()) is not Look.NONE:
        failed = ""
        try:
            models = read()
            # An empty file is the list without models.
            if reloader.is_news(models or ()) or complaint:
                # Without waiting: the next version of the file may be there to correct this one.
                reloader.reload(models, wait=False)
            elif look is Look.ASKED:
                log.info("The model configuration file has nothing new")
        except MalformedFileError as error:
            failed = f"Failed to read ModelServerConfig file: {error.message}: {error.detail}"
        except ServableError as error:
            failed = f"PollFilesystemAndReloadConfig failed to ReloadConfig: {error.message}"
        except Exception as error:
            failed = f"PollFilesystemAndReloadConfig failed to ReloadConfig: {type(error).__name__}: {error}"
            log.debug(failed, exc_info=True)
        if failed and (failed != complaint or look is Look.ASKED):
            log.error(failed)
        complaint = failed
