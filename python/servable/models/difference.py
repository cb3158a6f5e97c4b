"""What a list of models would change about those that a server has."""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from servable.config.model_config import ModelConfig, check_list, check_platforms, to_json
from servable.models.source import aspired, versions_in

__all__ = ["Change", "Difference", "Present", "Server", "differences"]


class Change(enum.Enum):
    """What becomes of a model."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"
    KEPT = "kept"
    """The list says otherwise, but what was done through the admin port holds."""
    KEPT_OUT = "kept_out"
    """The list has it, but it was removed through the admin port, which holds."""


@dataclass(frozen=True)
class Present:
    """A model that a server has."""

    model: ModelConfig
    is_added: bool
    """Through the admin port."""
    available: Collection[int] = ()
    """Its versions that answer requests."""


@dataclass(frozen=True)
class Server:
    """What is known of a server."""

    models: Sequence[Present]
    removed: Collection[str] = ()
    """Through the admin port: not served whatever a list says."""
    platforms: Collection[str] = ("tensorflow",)
    """Those that models may name, beside those that its models have."""


@dataclass(frozen=True)
class Difference:
    """What a list changes about one model."""

    name: str
    change: Change
    fields: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    """Before and after, of fields that differ; `None` where a field is not set."""
    loads: tuple[int, ...] = ()
    unloads: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        fields = {name: {"before": before, "after": after} for name, (before, after) in self.fields.items()}
        return {
            "name": self.name,
            "change": self.change.value,
            "fields": fields,
            "loads": list(self.loads),
            "unloads": list(self.unloads),
        }


def differences(
    server: Server, wanted: Sequence[ModelConfig], folders: Callable[[str], Iterable[str]]
) -> list[Difference]:
    """The models that the list would change, by name. `InvalidArgumentError` if the server would refuse the list.

    `folders` tells the names of the folders in a folder; where it raises an `OSError`, versions are left out.
    """
    there = {one.model.name: one for one in server.models}
    kept = {*server.removed, *(name for name, one in there.items() if one.is_added)}
    taken = [model for model in wanted if model.name not in kept]
    check_list(taken, [one.model for one in server.models])
    check_platforms(taken, {*server.platforms, *(one.model.platform for one in server.models)})
    listed = {model.name: model for model in wanted}
    found = [
        Difference(name, Change.KEPT_OUT)
        if name in server.removed and name in listed
        else _difference(name, there.get(name), listed.get(name), folders)
        for name in sorted(there | listed)
    ]
    return [difference for difference in found if difference is not None]


def _difference(
    name: str, before: Present | None, after: ModelConfig | None, folders: Callable[[str], Iterable[str]]
) -> Difference | None:
    if before is None and after is not None:
        loads, _ = _versions(after, (), folders)
        return Difference(name, Change.ADDED, _fields({}, to_json(after)), loads)
    if before is None:
        return None
    if after is None and before.is_added:
        return Difference(name, Change.KEPT)
    if after is None:
        return Difference(name, Change.REMOVED, unloads=tuple(sorted(before.available)))
    fields = _fields(to_json(before.model), to_json(after))
    if before.is_added:
        return Difference(name, Change.KEPT, fields) if fields else None
    loads, unloads = _versions(after, before.available, folders)
    return Difference(name, Change.CHANGED, fields, loads, unloads) if fields else None


def _fields(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    names = [*before, *(name for name in after if name not in before)]
    return {name: (before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)}


def _versions(
    model: ModelConfig, available: Collection[int], folders: Callable[[str], Iterable[str]]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What would be loaded and unloaded, if the folder is as this machine sees it."""
    try:
        wanted = {folder.version for folder in aspired(model.policy, versions_in(folders(model.base_path)))}
    except OSError:
        return (), ()
    return tuple(sorted(wanted - set(available))), tuple(sorted(set(available) - wanted))
