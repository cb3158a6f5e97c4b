"""Which versions should exist: what the file system holds, as far as each model's policy asks for it."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from servable.config.batching import BatchingParameters
from servable.config.model_config import Latest, ModelConfig, Policy, Specific
from servable.storage.aside import PATIENCE_S, Aside

__all__ = ["Aspired", "FileSystemSource", "VersionFolder", "aspired", "versions_in"]

log = logging.getLogger(__name__)

INT64_MAX = 2**63 - 1


@dataclass(frozen=True)
class VersionFolder:
    """What has a number for its name: a folder, or else it fails to load."""

    version: int
    name: str


@dataclass(frozen=True)
class Aspired:
    """A version that should be served, and where it is."""

    version: int
    path: str
    platform: str = "tensorflow"
    batching: BatchingParameters | None = None
    """As its model's configuration has it. A version that is loaded keeps what it was loaded with."""


@dataclass(frozen=True)
class _Finding:
    """What a model's policy made of the children of its base path."""

    model: ModelConfig
    children: Sequence[str]
    goals: Sequence[Aspired]


def versions_in(children: Iterable[str]) -> list[VersionFolder]:
    """The versions among the names of a folder's children, ordered by name.

    `00000123` is version 123. Names that are no whole number from 0 to 2^63 - 1 are not versions; renaming `7` to
    `7.off` hides it.
    """
    names = sorted(name for name in children if re.fullmatch(r"[ \t]*\+?[0-9]+[ \t]*", name))
    found = [VersionFolder(int(name), name) for name in names]
    return [folder for folder in found if folder.version <= INT64_MAX]


def aspired(policy: Policy, found: Sequence[VersionFolder]) -> list[VersionFolder]:
    """What `policy` picks of what was found. Of two folders with the same number the one found last counts."""
    by_number = {folder.version: folder for folder in found}
    if isinstance(policy, Latest):
        return [by_number[version] for version in sorted(by_number, reverse=True)[: max(1, policy.count)]]
    if isinstance(policy, Specific):
        return [by_number[version] for version in dict.fromkeys(policy.versions) if version in by_number]
    return list(by_number.values())


class FileSystemSource:
    """Scans the base paths of the configured models and announces what should be served.

    `announce` gets whole lists: the versions of every model that was scanned, none for models that are gone. A model
    whose base path cannot be read is left out, so that it keeps what it has; the others do not suffer. While nothing
    has changed, a model's list is the same object again: with a thousand models, comparing costs more than looking.
    """

    def __init__(
        self,
        announce: Callable[[Mapping[str, Sequence[Aspired]]], None],
        *,
        folders: Callable[[str], Sequence[str]],
        enabled: bool = True,
        keep_last: bool = False,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """With `keep_last`, a base path without versions does not unload what is served. One that does not answer is
        waited for once, for `patience_s`, and then treated as one that cannot be read until it does.
        """
        self._announce = announce
        self._folders = Aside(folders, patience_s=patience_s)
        self._enabled = enabled
        self._keep_last = keep_last
        self._scanning = threading.Lock()  # guards what follows, and the order of announcements
        self._models: tuple[ModelConfig, ...] = ()
        self._remarks: dict[str, list[str]] = {}
        self._findings: dict[str, _Finding] = {}

    def replace(self, models: Sequence[ModelConfig]) -> None:
        """Scan these models from now on, beginning at once, and let go of the others."""
        with self._scanning:
            gone = {model.name for model in self._models} - {model.name for model in models}
            self._models = tuple(models)
            self._remarks = {model.name: self._remarks.get(model.name, []) for model in models}
            for name in gone:
                self._findings.pop(name, None)
            self._scan(dict.fromkeys(gone, ()))

    def scan(self) -> None:
        """Look again at every base path."""
        with self._scanning:
            self._scan({})

    def _scan(self, announcement: dict[str, Sequence[Aspired]]) -> None:
        models = self._models if self._enabled else ()
        answers = self._folders.ask_all([model.base_path for model in models])
        for model in models:
            children = answers[model.base_path]
            if isinstance(children, Exception):  # whatever it is, it concerns this model only
                self._findings.pop(model.name, None)
                problem = f"Could not find base path {model.base_path} for servable {model.name} with error "
                self._remark(model, [problem + (getattr(children, "strerror", None) or str(children))])
                continue
            finding = self._findings.get(model.name)
            if finding is None or finding.model is not model or finding.children != children:
                finding = self._findings[model.name] = self._find(model, children)
            if finding.goals or not self._keep_last:
                announcement[model.name] = finding.goals
        if announcement:
            self._announce(announcement)

    def _find(self, model: ModelConfig, children: Sequence[str]) -> _Finding:
        found = versions_in(children)
        chosen = aspired(model.policy, found)
        remarks = _remarks(model, found, chosen)
        if not chosen and self._keep_last:
            remarks.append(f"Refusing to unload all versions for Servable: {model.name}")
        self._remark(model, remarks)
        goals = [
            Aspired(folder.version, os.path.join(model.base_path, folder.name), model.platform, model.batching)
            for folder in chosen
        ]
        return _Finding(model, children, goals)

    def _remark(self, model: ModelConfig, remarks: list[str]) -> None:
        """Log what is remarkable about a model, once for as long as it stays the same."""
        for remark in remarks:
            if remark not in self._remarks[model.name]:
                log.warning(remark, extra={"model": model.name})
        self._remarks[model.name] = remarks


def _remarks(model: ModelConfig, found: Sequence[VersionFolder], chosen: Sequence[VersionFolder]) -> list[str]:
    remarks = []
    if not chosen:
        remarks.append(
            f"No versions of servable {model.name} found under base path {model.base_path}. Did you forget to name "
            "your leaf directory as a number (eg. '/1/')?"
        )
    by_number = {folder.version: folder for folder in found}
    for folder in found:
        winner = by_number[folder.version]
        if winner is not folder:
            remarks.append(
                f"Version {folder.version} of servable {model.name} is there twice: '{winner.name}' is used, "
                f"'{folder.name}' is not"
            )
    if isinstance(model.policy, Specific):
        remarks += [
            f"Version {version} of servable {model.name}, which was requested to be served as a 'specific' version in "
            "the servable's version policy, was not found in the file system"
            for version in model.policy.versions
            if version not in by_number
        ]
    return remarks
