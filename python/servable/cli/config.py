"""`servable config`: check a model configuration file, and compare it with what a server has."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

from servable.cli.admin_client import AdminClient
from servable.cli.arguments import FAILED, Parser, run, show
from servable.config import platform_config
from servable.config.model_config import MESSAGE, from_text, model_from_json, rooted
from servable.config.request_log import collectors
from servable.errors import MalformedFileError, ServableError, reading
from servable.models.check import Finding, Severity, World, check
from servable.models.difference import Change, Difference, Present, Server, differences
from servable.platforms.base import PLATFORMS
from servable.request_log.collector import COLLECTORS
from servable.types import State

__all__ = ["config", "difference_text", "finding_text"]

T = TypeVar("T")

DIFFERS = 1

MARKS = {Change.ADDED: "+", Change.REMOVED: "-", Change.CHANGED: "~", Change.KEPT: "=", Change.KEPT_OUT: "="}
NOTES = {Change.KEPT: " is kept as the admin port has it", Change.KEPT_OUT: " stays removed, as the admin port has it"}


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
        command.add_argument(
            "--model_config_list_root_dir",
            default="",
            metavar="FOLDER",
            help="the server's: what relative base paths are relative to",
        )
        command.add_argument(
            "--platform_config_file", metavar="FILE", help="the server's: the platforms that models may name"
        )
        command.add_json()
    return parser


def _check(options: argparse.Namespace) -> int:
    from servable import engine

    known = (*COLLECTORS, *collectors(options.request_log_collector))
    root = options.model_config_list_root_dir
    world = World(os.listdir, engine.read_saved_model, engine.EngineError, _platforms(options), root, known)
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

    models = _parsed(options.file, MESSAGE, lambda text: from_text(text, engine, options.file)) or ()
    listing = AdminClient.of(options).listing()
    present = [_present(model) for model in listing["models"]]
    server = Server(present, listing.get("removed", ()), _platforms(options))
    found = differences(server, rooted(models, options.model_config_list_root_dir), os.listdir)
    show(
        options,
        [difference.to_json() for difference in found],
        lambda: [line for difference in found for line in difference_text(difference)] or ["Nothing would change."],
    )
    return DIFFERS if any(difference.change not in NOTES for difference in found) else 0


def _present(model: Mapping[str, Any]) -> Present:
    available = [version["version"] for version in model["versions"] if version["state"] == State.AVAILABLE.name]
    return Present(model_from_json(model["config"]), model["origin"] == "ADMIN", available)


def difference_text(difference: Difference) -> list[str]:
    """Lines for people: the model, its fields, its versions."""
    lines = [f"{MARKS[difference.change]} {difference.name}{NOTES.get(difference.change, '')}"]
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


def _platforms(options: argparse.Namespace) -> Collection[str]:
    """Those that models may name."""
    from servable import engine

    if not options.platform_config_file:
        return PLATFORMS
    return _parsed(
        options.platform_config_file, platform_config.MESSAGE, lambda text: platform_config.from_text(text, engine)
    )


def _parsed(path: str, message: str, parse: Callable[[str], T]) -> T:
    text = _text(path)
    try:
        return parse(text)
    except ValueError as error:
        malformed = MalformedFileError(path, message, str(error))
        raise ServableError(f"{malformed.message}: {error}", code=malformed.code) from error


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError as error:
        raise reading(path, error) from error
    except UnicodeDecodeError as error:
        raise ServableError(f"{path} is no UTF-8: {error}", code="INVALID_ARGUMENT") from error
