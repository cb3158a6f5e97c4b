"""Which models to serve: `tensorflow.serving.ModelServerConfig` as frozen values, and the rules for a list."""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from servable.config import batching
from servable.config.base_path import REMOTE_SCHEMES, is_absolute, is_supported
from servable.config.batching import BatchingParameters
from servable.config.codec import Codec
from servable.config.place import Lines, Place
from servable.errors import FailedPreconditionError, InvalidArgumentError, UnimplementedError

__all__ = [
    "All",
    "LabelRule",
    "Latest",
    "ModelConfig",
    "Policy",
    "Specific",
    "Transition",
    "batching_from_json",
    "check_labels",
    "check_list",
    "check_platforms",
    "from_json",
    "from_text",
    "is_absolute",
    "model_from_json",
    "rooted",
    "to_json",
]

MESSAGE = "tensorflow.serving.ModelServerConfig"


@dataclass(frozen=True)
class Latest:
    """The versions with the highest numbers."""

    count: int = 1


@dataclass(frozen=True)
class All:
    """Every version there is."""


@dataclass(frozen=True)
class Specific:
    """These versions, as far as they exist."""

    versions: tuple[int, ...]


Policy = Latest | All | Specific


class Transition(enum.Enum):
    """The order of loading and unloading when versions change."""

    AVAILABILITY_PRESERVING = "availability_preserving"
    """The new version is loaded first: no gap, and both are in memory for a while."""
    RESOURCE_PRESERVING = "resource_preserving"
    """The old version is unloaded first: a gap, and never more than one in memory."""


@dataclass(frozen=True)
class ModelConfig:
    """One model to serve. `None` leaves it to the flags."""

    name: str
    base_path: str
    platform: str = "tensorflow"
    policy: Policy = Latest()
    labels: Mapping[str, int] = field(default_factory=dict)
    transition: Transition | None = None
    lazy: bool | None = None
    """Loaded with the first request, and unloaded again if others need the memory."""
    pinned: bool = False
    """Once loaded, never unloaded to make room."""
    batching: BatchingParameters | None = None
    """For versions that are loaded from now on."""
    logging: Mapping[str, Any] | None = None
    """A `LoggingConfig` as JSON, kept as it is."""
    place: Place | None = field(default=None, compare=False, repr=False)
    """Where it is said, if that is a file: for errors."""


class LabelRule(enum.Enum):
    """Which versions may be given a label."""

    NONE = "no labels"
    AVAILABLE = "available versions"
    NEW = "available versions; a new label may also point at one that is not (yet)"
    ANY = "any version"


def from_text(text: str, codec: Codec, path: str) -> tuple[ModelConfig, ...] | None:
    """The models in a configuration file; `None` if it holds no list. `ValueError` if the text is malformed.

    `path` is what errors call the file.
    """
    import json

    config = json.loads(codec.decode_message(MESSAGE, codec.encode_text(MESSAGE, text)))
    lines = Lines(text, len(config.get("model_config_list", {}).get("config", ())))
    return from_json(config, lambda index: Place(path, lines, index))


def from_json(
    config: Mapping[str, Any], place: Callable[[int], Place | None] = lambda index: None
) -> tuple[ModelConfig, ...] | None:
    """The models in a decoded `ModelServerConfig`; `None` if it holds no list. `place` tells where an entry is said."""
    if "custom_model_config" in config:
        raise UnimplementedError(
            "ModelServer does not yet support custom model config. Models stand in model_config_list { config { } }"
        )
    if "model_config_list" not in config:
        return None
    entries = config["model_config_list"].get("config", ())
    return tuple(model_from_json(model, place(index)) for index, model in enumerate(entries))


def model_from_json(model: Mapping[str, Any], place: Place | None = None) -> ModelConfig:
    """One entry of the list, decoded."""
    name = model.get("name", "")
    options = model.get("servable", {})
    return ModelConfig(
        name=name,
        base_path=model.get("base_path", ""),
        platform=_platform(name, model.get("model_type"), model.get("model_platform"), place),
        policy=_policy(model.get("model_version_policy", {})),
        labels=model.get("version_labels", {}),
        transition=Transition[options["transition"]] if "transition" in options else None,
        lazy=options["loading"] == "LAZY" if "loading" in options else None,
        pinned=options.get("pinned", False),
        batching=batching_from_json(name, options["batching"], place) if "batching" in options else None,
        logging=model.get("logging_config"),
        place=place,
    )


def _at(place: Place | None, field: str) -> str:
    """What an error about a field goes on with."""
    return "" if place is None else f" ({place.of(field)})"


def batching_from_json(name: str, fields: Mapping[str, Any], place: Place | None = None) -> BatchingParameters:
    """The batching of one entry, decoded. What cannot be is refused here: a list that is refused changes nothing."""
    try:
        parameters = batching.from_json(fields)
        batching.check_pool(parameters)
        batching.check_queue(parameters)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(
            f"The batching of model {name} cannot be: {error.message}{_at(place, 'batching')}"
        ) from error
    return parameters


def to_json(model: ModelConfig) -> dict[str, Any]:
    """The entry as proto JSON: what `model_from_json` makes the model of."""
    options: dict[str, Any] = {}
    if model.transition is not None:
        options["transition"] = model.transition.name
    if model.lazy is not None:
        options["loading"] = "LAZY" if model.lazy else "EAGER"
    if model.pinned:
        options["pinned"] = True
    if model.batching is not None:
        options["batching"] = batching.to_json(model.batching)
    fields = {
        "name": model.name,
        "base_path": model.base_path,
        "model_platform": model.platform,
        "model_version_policy": _policy_json(model.policy),
        "version_labels": dict(model.labels),
        "servable": options,
    }
    logging = {} if model.logging is None else {"logging_config": model.logging}
    return {name: value for name, value in fields.items() if value} | logging


def _policy_json(policy: Policy) -> dict[str, Any]:
    if isinstance(policy, All):
        return {"all": {}}
    if isinstance(policy, Specific):
        return {"specific": {"versions": list(policy.versions)}}
    return {"latest": {"num_versions": policy.count}} if policy != Latest() else {}


def _platform(name: str, model_type: str | None, platform: str | None, place: Place | None) -> str:
    def refusal(reason: str) -> InvalidArgumentError:
        return InvalidArgumentError(reason + _at(place, "model_platform"))

    fields = "ModelServerConfig::model_type (deprecated) {} ModelServerConfig::model_platform, model name is " + name
    if model_type and platform:
        raise refusal("Illegal setting both " + fields.format("and"))
    if not model_type and not platform:
        raise refusal("Illegal setting neither " + fields.format("nor"))
    if model_type and model_type != "TENSORFLOW":
        raise refusal(f"ModelServerConfig::model_type choice {model_type} not supported.")
    return platform or "tensorflow"


def _policy(policy: Mapping[str, Any]) -> Policy:
    if "all" in policy:
        return All()
    if "specific" in policy:
        return Specific(tuple(policy["specific"].get("versions", ())))
    return Latest(policy.get("latest", {}).get("num_versions", 0) or 1)


def check_list(models: Sequence[ModelConfig], before: Sequence[ModelConfig] = ()) -> None:
    """Refuse a list that contradicts itself, or the one it is to replace."""
    seen = set()
    for model in models:
        if not model.name:
            raise InvalidArgumentError(
                f"Expected every model to have a name; the one at {model.base_path} has none{_at(model.place, 'name')}"
            )
        if model.name in seen:
            raise InvalidArgumentError(
                f"Illegal to list model {model.name} multiple times in config list{_at(model.place, 'name')}"
            )
        seen.add(model.name)
    for model in models:
        for what, text in (("name", model.name), ("base_path", model.base_path)):
            if "\0" in text:
                raise InvalidArgumentError(f"Model {model.name!r}: {what} has a NUL, which no path can have: {text!r}")
        if not is_absolute(model.base_path):
            raise InvalidArgumentError(
                f"Expected model {model.name} to have an absolute path or URI; got base_path()={model.base_path}"
                f"{_at(model.place, 'base_path')}"
            )
        if not is_supported(model.base_path):
            known = ", ".join(f"{scheme}://" for scheme in REMOTE_SCHEMES)
            raise InvalidArgumentError(
                f"Model {model.name}: cannot read {model.base_path}; a base path is an absolute path, file:///path, or "
                f"begins with a store: {known}{_at(model.place, 'base_path')}"
            )
    platforms = {model.name: model.platform for model in before}
    for model in models:
        platform = platforms.get(model.name, model.platform)
        if platform != model.platform:
            raise InvalidArgumentError(
                f"Illegal to change a model's platform. For model {model.name} platform was {platform} and new "
                f"platform requested is {model.platform}{_at(model.place, 'model_platform')}"
            )


def rooted(models: Sequence[ModelConfig], root: str) -> tuple[ModelConfig, ...]:
    """The models, with relative base paths joined to `root` if there is one."""
    if not root:
        return tuple(models)
    return tuple(
        model if is_absolute(model.base_path) else replace(model, base_path=f"{root.rstrip('/')}/{model.base_path}")
        for model in models
    )


def check_labels(
    models: Sequence[ModelConfig],
    *,
    before: Sequence[ModelConfig] = (),
    available: Mapping[str, Collection[int]],
    rule: LabelRule,
) -> None:
    """Refuse a label on a version that requests cannot reach, as far as the rule goes.

    Under `LabelRule.NEW` a label may do so if it is new, or stays where it is; it may not move there.
    """
    if rule is LabelRule.NONE and any(model.labels for model in models):
        raise FailedPreconditionError("Model version labels are not currently allowed by the server.")
    labels = {model.name: model.labels for model in before}
    for model in models:
        for label, version in model.labels.items():
            if rule is LabelRule.ANY or version in available.get(model.name, ()):
                continue
            if rule is LabelRule.NEW and labels.get(model.name, {}).get(label, version) == version:
                continue
            raise FailedPreconditionError(
                f"Request to assign label to version {version} of model {model.name}, which is not currently available "
                f"for inference{_at(model.place, 'version_labels')}"
            )


def check_platforms(models: Sequence[ModelConfig], platforms: Collection[str]) -> None:
    """Refuse a platform that is not in the table."""
    for model in models:
        if model.platform not in platforms:
            raise InvalidArgumentError(
                f"Model {model.name} requests unsupported platform {model.platform}{_at(model.place, 'model_platform')}"
            )
