"""What was changed about single models at run time, as a value that is laid over the configured list."""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from servable.config.model_config import ModelConfig, model_from_json, to_json

__all__ = ["Origin", "Overlay", "overlay_from_json"]


class Origin(enum.Enum):
    """Who wants a model to be served as it is."""

    FLAGS = "the flags"
    CONFIG_FILE = "the configuration file"
    RELOAD = "HandleReloadConfigRequest"
    ADMIN = "the admin port"


@dataclass(frozen=True)
class Overlay:
    """Changes to a list of models. They hold whatever the list underneath becomes."""

    models: Mapping[str, ModelConfig] = field(default_factory=dict)
    """Entries added, or put in the place of others."""
    removed: frozenset[str] = frozenset()
    labels: Mapping[str, Mapping[str, int | None]] = field(default_factory=dict)
    """Labels given to models of the list, and taken from them (`None`)."""

    def over(self, base: Sequence[ModelConfig]) -> tuple[ModelConfig, ...]:
        """The list with these changes."""
        kept = (model for model in base if model.name not in self.removed)
        listed = [self.models.get(model.name) or self._labelled(model) for model in kept]
        names = {model.name for model in listed}
        return (*listed, *(model for name, model in self.models.items() if name not in names))

    def untouched(self, base: Sequence[ModelConfig]) -> list[ModelConfig]:
        """The models of the list that are served as the list has them, but for labels."""
        return [model for model in base if model.name not in self.models and model.name not in self.removed]

    def _labelled(self, model: ModelConfig) -> ModelConfig:
        changes = self.labels.get(model.name)
        return _with_labels(model, changes) if changes else model

    def with_model(self, model: ModelConfig) -> Overlay:
        """This one entry, whatever was changed about it before."""
        labels = {name: changes for name, changes in self.labels.items() if name != model.name}
        return Overlay({**self.models, model.name: model}, self.removed - {model.name}, labels)

    def without_model(self, name: str, base: Collection[str]) -> Overlay:
        """Not this model; `base` are the names of the list underneath."""
        return Overlay(
            {other: model for other, model in self.models.items() if other != name},
            self.removed | {name} if name in base else self.removed,
            {other: changes for other, changes in self.labels.items() if other != name},
        )

    def with_label(self, name: str, label: str, version: int | None) -> Overlay:
        """This label on this version of the model; `None` for on none."""
        if name in self.models:
            changed = _with_labels(self.models[name], {label: version})
            return replace(self, models={**self.models, name: changed})
        changes = {**self.labels.get(name, {}), label: version}
        return replace(self, labels={**self.labels, name: changes})

    def to_json(self) -> dict[str, Any]:
        """The overlay as JSON: what `overlay_from_json` makes it of."""
        return {
            "models": [to_json(model) for model in self.models.values()],
            "removed": sorted(self.removed),
            "labels": {name: dict(changes) for name, changes in self.labels.items()},
        }


def overlay_from_json(fields: Mapping[str, Any]) -> Overlay:
    """The overlay that these fields tell of. `KeyError`, `TypeError` or `ValueError` if they are not like that."""
    models = [model_from_json(model) for model in fields["models"]]
    removed, labels = fields["removed"], fields["labels"]
    if not all(isinstance(name, str) for name in removed):
        raise ValueError("'removed' does not list names")
    for name, changes in labels.items():
        if not all(version is None or isinstance(version, int) for version in changes.values()):
            raise ValueError(f"'labels' of model {name} are no version numbers")
    return Overlay({model.name: model for model in models}, frozenset(removed), labels)


def _with_labels(model: ModelConfig, changes: Mapping[str, int | None]) -> ModelConfig:
    labels = {label: version for label, version in {**model.labels, **changes}.items() if version is not None}
    return replace(model, labels=labels)
