"""Everything that can be said about a model configuration file without running a server."""

from __future__ import annotations

import enum
import functools
import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from servable.config.codec import Codec
from servable.config.model_config import (
    MESSAGE,
    ModelConfig,
    Specific,
    batching_from_json,
    check_list,
    check_platforms,
    model_from_json,
    rooted,
)
from servable.config.place import Lines
from servable.errors import ServableError
from servable.models.source import VersionFolder, aspired, versions_in
from servable.request_log.collector import COLLECTORS

__all__ = ["Finding", "Severity", "World", "check"]


class Severity(enum.Enum):
    """ERROR: a server refuses the file, or cannot serve the model. WARNING: it may be meant."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True)
class Finding:
    """Something that is wrong or odd."""

    severity: Severity
    problem: str
    expected: str = ""
    model: str = ""
    field: str = ""
    line: int | None = None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "severity": self.severity.value}


@dataclass(frozen=True)
class World:
    """What a check looks at beside the text."""

    folders: Callable[[str], Iterable[str]]
    """The names of the folders in a folder, or `OSError`."""
    describe: Callable[[str], str]
    """What a SavedModel offers, as JSON; or an error with a `code`."""
    described_error: type[Exception]
    platforms: Collection[str] = ("tensorflow",)
    """What models may name."""
    root: str = ""
    """What relative base paths are relative to; empty for nothing."""
    collectors: Collection[str] = tuple(COLLECTORS)
    """Types of collectors of the request log."""


def check(text: str, codec: Codec, world: World) -> list[Finding]:
    """The findings, in the order of the file."""
    try:
        decoded = json.loads(codec.decode_message(MESSAGE, codec.encode_text(MESSAGE, text)))
    except ValueError as error:
        line, _, reason = str(error).partition(":")
        if line.isdecimal():
            return [Finding(Severity.ERROR, f"column {reason}", line=int(line))]
        return [Finding(Severity.ERROR, str(error))]
    if "custom_model_config" in decoded:
        problem = "custom_model_config is not supported"
        return [Finding(Severity.ERROR, problem, "model_config_list { config { ... } }", field="custom_model_config")]
    entries = decoded.get("model_config_list", {}).get("config", [])
    findings = []
    if not entries:
        findings.append(Finding(Severity.WARNING, "no model is listed", "config { ... } in model_config_list"))
    lines = Lines(text, len(entries))
    seen: set[str] = set()
    for index, entry in enumerate(entries):
        note = _Notes(entry.get("name", ""), functools.partial(lines.of, index))
        _check_entry(entry, seen, note, world)
        findings += note.findings
    if any(entry.get("version_labels") for entry in entries):
        problem = "a server that starts with labels refuses them, because nothing is loaded yet"
        expected = "--allow_version_labels_for_unavailable_models, or labels set once the versions are available"
        findings.append(Finding(Severity.WARNING, problem, expected, field="version_labels"))
    return findings


class _Notes:
    """The findings about one entry."""

    def __init__(self, name: str, line_of: Callable[[str], int | None]) -> None:
        self.findings: list[Finding] = []
        self._name = name
        self._line_of = line_of

    def error(self, field: str, problem: str, expected: str = "") -> None:
        self.findings.append(Finding(Severity.ERROR, problem, expected, self._name, field, self._line_of(field)))

    def warning(self, field: str, problem: str, expected: str = "") -> None:
        self.findings.append(Finding(Severity.WARNING, problem, expected, self._name, field, self._line_of(field)))


def _check_entry(entry: Mapping[str, Any], seen: set[str], note: _Notes, world: World) -> None:
    name = entry.get("name", "")
    if not name:
        note.error("name", "the model has no name", 'name: "..."')
    elif name in seen:
        note.error("name", f"model {name} is listed before", "a name that no other model has")
    seen.add(name)
    if "logging_config" in entry:
        collector = entry["logging_config"].get("log_collector_config", {}).get("type", "")
        if not collector:
            note.error("logging_config", "no log_collector_config says where requests are logged", 'type: "file"')
        elif collector not in world.collectors:
            problem = f"type {collector} of log_collector_config is unknown"
            note.error("logging_config", problem, f"{', '.join(world.collectors)}, or one of --request_log_collector")
    if "model_type" in entry:
        note.warning("model_type", "model_type is deprecated", 'model_platform: "tensorflow"')
    try:
        batching_from_json(name, entry.get("servable", {}).get("batching", {}))
    except ServableError as error:
        note.error("batching", error.message)
        return
    try:
        model = model_from_json(entry)
    except ServableError as error:
        note.error("model_platform", error.message, 'model_platform: "tensorflow"')
        return
    try:
        (model,) = rooted([model], world.root)
        check_list([ModelConfig(name or "?", model.base_path, model.platform)])
    except ServableError as error:
        note.error("base_path", error.message, "an absolute path, or --model_config_list_root_dir")
        return
    try:
        check_platforms([model], world.platforms)
    except ServableError as error:
        note.error("model_platform", error.message, f"one of {', '.join(sorted(world.platforms))}")
    found = _versions(model, note, world)
    if found is not None:
        _check_versions(model, found, note, world)


def _versions(model: ModelConfig, note: _Notes, world: World) -> list[VersionFolder] | None:
    """The versions under the base path; `None` if that cannot be known here."""
    if not model.base_path.startswith("/"):
        note.warning("base_path", f"{model.base_path} is not looked at, it is no local folder")
        return None
    try:
        return versions_in(world.folders(model.base_path))
    except (FileNotFoundError, PermissionError) as error:
        note.warning("base_path", f"{model.base_path}: {error.strerror}", "a folder that this machine can read")
    except OSError as error:
        note.error("base_path", f"{model.base_path}: {error.strerror}", "a folder with version folders in it")
    return None


def _check_versions(model: ModelConfig, found: Sequence[VersionFolder], note: _Notes, world: World) -> None:
    if not found:
        note.warning("base_path", f"{model.base_path} holds no version", "a folder whose name is a number, such as 1")
    there = {folder.version for folder in found}
    if isinstance(model.policy, Specific):
        for version in model.policy.versions:
            if version not in there:
                note.warning("model_version_policy", f"version {version} is not there", _listing(there))
    served = aspired(model.policy, found)
    numbers = {folder.version for folder in served}
    if isinstance(model.policy, Specific):
        numbers = set(model.policy.versions)
    for label, version in model.labels.items():
        if version not in numbers:
            problem = f"label {label} points at version {version}, which is not served"
            note.error("version_labels", problem, _listing(numbers))
    for folder in served:
        _check_saved_model(os.path.join(model.base_path, folder.name), note, world)


def _check_saved_model(path: str, note: _Notes, world: World) -> None:
    try:
        graphs = json.loads(world.describe(path))["meta_graphs"]
    except world.described_error as error:
        if getattr(error, "code", "") != "UNIMPLEMENTED":  # a SavedModel in text form is only not shown
            note.error("base_path", getattr(error, "message", str(error)), f"a SavedModel in {path}")
        return
    served = [graph for graph in graphs if graph["tags"] == ["serve"]]
    if not served:
        tags = "; ".join(", ".join(graph["tags"]) for graph in graphs)
        note.warning("base_path", f"{path} has no graph with the tag serve alone", f"--saved_model_tags={tags}")
    elif not any(name for graph in served for name in graph["signatures"] if not name.startswith("__saved_model_")):
        note.warning("base_path", f"{path} has no signature that requests could name", "serving_default, for instance")


def _listing(versions: Iterable[int]) -> str:
    return f"one of {', '.join(map(str, sorted(versions)))}" if versions else "a version that is there"
