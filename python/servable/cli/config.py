"""`servable config`: check a model configuration file, and compare it with what a server has."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from servable.cli.admin_client import AdminClient
from servable.cli.arguments import FAILED, Parser, run, show
from servable.config.model_config import from_text, model_from_json
from servable.config.request_log import collectors
from servable.errors import MalformedFileError, ServableError, reading
from servable.models.check import Finding, Severity, World, check
from servable.models.difference import Change, Difference, Present, differences
from servable.request_log.collector import COLLECTORS
from servable.types import State

__all__ = ["config", "difference_text", "finding_text"]

DIFFERS = 1

MARKS = {Change.ADDED: "+", Change.REMOVED: "-", Change.CHANGED: "~", Change.KEPT: "="}


def config(arguments: Sequence[str]) -> int:
    """Do what `arguments` ask for. Returns the exit code."""
    return run(_parser(), arguments or ["--help"])


def _parser() -> Parser:
    parser = Parser(prog="servable config", description="Look at a model configuration file. Nothing is changed.")
    commands = parser.add_subparsers(metavar="<command>", required=True)
    sentence = "Check a file without a server. Exit code 0 if there is no error, 255 if there is."
    checked: Parser = commands.add_parser("check", help=sentence, description=sentence)
    checked.add_argument("--strict", action="store_true", help="warnings count as errors")
    checked.add_argument(
        "--request_log_collector",
        action="append",
        default=[],
        metavar="NAME=package.module:Class",
        help="a further type of log_collector_config, as the server has it",
    )
    checked.set_defaults(act=_check)
    sentence = "What a file would change about a running server. Exit code 0 for nothing, 1 for something."
    compared: Parser = commands.add_parser("diff", help=sentence, description=sentence)
    compared.add_server()
    compared.set_defaults(act=_diff)
    for command in (checked, compared):
        command.add_argument("file", help="a ModelServerConfig in protobuf text")
        command.add_json()
    return parser


def _check(options: argparse.Namespace) -> int:
    from servable import engine

    known = (*COLLECTORS, *collectors(options.request_log_collector))
    world = World(os.listdir, engine.read_saved_model, engine.EngineError, known)
    findings = check(_text(options.file), engine, world)
    show(
        options,
        [finding.to_json() for finding in findings],
        lambda: [finding_text(options.file, finding) for finding in findings] or [f"{options.file}: nothing is wrong"],
    )
    counts = (Severity.ERROR, Severity.WARNING) if options.strict else (Severity.ERROR,)
    return FAILED if any(finding.severity in counts for finding in findings) else 0


def finding_text(path: str, finding: Finding) -> str:
    """A line, in the form that editors understand."""
    place = path if finding.line is None else f"{path}:{finding.line}"
    about = "".join(f"{what} {name}: " for what, name in (("model", finding.model), ("field", finding.field)) if name)
    expected = f"; expected {finding.expected}" if finding.expected else ""
    return f"{place}: {finding.severity.value}: {about}{finding.problem}{expected}"


def _diff(options: argparse.Namespace) -> int:
    from servable import engine

    text = _text(options.file)
    try:
        wanted = from_text(text, engine) or ()
    except ValueError as error:
        malformed = MalformedFileError(options.file, "tensorflow.serving.ModelServerConfig", str(error))
        raise ServableError(f"{malformed.message}: {error}", code=malformed.code) from error
    found = differences([_present(model) for model in AdminClient.of(options).list()], wanted, os.listdir)
    show(
        options,
        [difference.to_json() for difference in found],
        lambda: [line for difference in found for line in difference_text(difference)] or ["Nothing would change."],
    )
    return DIFFERS if any(difference.change is not Change.KEPT for difference in found) else 0


def _present(model: Mapping[str, Any]) -> Present:
    available = [version["version"] for version in model["versions"] if version["state"] == State.AVAILABLE.name]
    return Present(model_from_json(model["config"]), model["origin"] == "ADMIN", available)


def difference_text(difference: Difference) -> list[str]:
    """Lines for people: the model, its fields, its versions."""
    note = " is kept as the admin port has it" if difference.change is Change.KEPT else ""
    lines = [f"{MARKS[difference.change]} {difference.name}{note}"]
    for name, (before, after) in difference.fields.items():
        if difference.change is Change.ADDED:
            lines.append(f"    {name}: {_value(after)}")
        else:
            lines.append(f"    {name}: {_value(before)} -> {_value(after)}")
    for word, versions in (("loads", difference.loads), ("unloads", difference.unloads)):
        if versions:
            lines.append(f"    {word} {', '.join(map(str, versions))}")
    return lines


def _value(value: Any) -> str:
    return "not set" if value is None else json.dumps(value)


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError as error:
        raise reading(path, error) from error
    except UnicodeDecodeError as error:
        raise ServableError(f"{path} is no UTF-8: {error}", code="INVALID_ARGUMENT") from error
