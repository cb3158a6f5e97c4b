"""`servable models`: see and change the models of a running server."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from typing import Any

from servable.cli.admin_client import AdminClient
from servable.cli.arguments import Parser, run, show
from servable.cli.columns import aligned
from servable.config.model_config import All, Latest, ModelConfig, Policy, Specific, Transition, to_json
from servable.errors import FlagError, NotFoundError, ServableError
from servable.types import State

__all__ = ["as_list", "as_status", "models"]

LOOK_AGAIN_S = 0.1


def models(arguments: Sequence[str]) -> int:
    """Do what `arguments` ask for. Returns the exit code."""
    return run(_parser(), arguments or ["--help"])


def _parser() -> Parser:
    parser = Parser(prog="servable models", description="See and change the models of a running server.")
    commands = parser.add_subparsers(metavar="<command>", required=True)

    def command(name: str, act: Any, sentence: str, *, named: bool = True) -> Parser:
        made: Parser = commands.add_parser(name, help=sentence, description=sentence)
        if named:
            made.add_argument("name", help="name of the model")
        made.add_server()
        made.add_json()
        made.set_defaults(act=act)
        return made

    command("list", _list, "All models that are configured.", named=False)
    command("status", _status, "One model with its versions.")
    command("remove", _remove, "Stop serving a model.")
    add = command("add", _add, "Serve a model, or serve it otherwise.")
    add.add_argument("--base_path", "--base-path", required=True, help="folder with the version folders")
    versions = add.add_mutually_exclusive_group()
    versions.add_argument("--versions", type=_numbers, metavar="1,2", help="serve these versions")
    versions.add_argument("--latest", type=int, metavar="N", help="serve the N latest versions (default: 1)")
    versions.add_argument("--all", action="store_true", help="serve all versions")
    add.add_argument("--label", action="append", type=_label_at, default=[], metavar="LABEL=VERSION", help="repeatable")
    add.add_argument("--platform", default="tensorflow", help="(default: %(default)s)")
    add.add_argument("--lazy", action="store_true", help="load with the first request")
    add.add_argument("--pinned", action="store_true", help="never unload to make room")
    add.add_argument("--transition", choices=[transition.value for transition in Transition])
    add.add_argument("--no-wait", "--no_wait", action="store_true", help="do not wait until it is available")
    add.add_argument("--timeout", type=_seconds, default=0, metavar="SECONDS", help="wait no longer than this")
    label = command("label", _label, "Let a label point at a version.")
    label.add_argument("label")
    label.add_argument("version", nargs="?", type=int)
    label.add_argument("--remove", action="store_true", help="take the label away")
    return parser


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected numbers such as 1,2; got {text}") from error


def _label_at(text: str) -> tuple[str, int]:
    label, _, version = text.rpartition("=")
    if not label or not version.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a label and a number, such as stable=1; got {text}")
    return label, int(version)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number of seconds; got {text}")
    return seconds


def _list(options: argparse.Namespace) -> int:
    listed = AdminClient.of(options).list()
    show(options, listed, lambda: as_list(listed))
    return 0


def _status(options: argparse.Namespace) -> int:
    return _show_model(options, AdminClient.of(options).get(options.name))


def _remove(options: argparse.Namespace) -> int:
    AdminClient.of(options).remove(options.name)
    show(options, {}, lambda: [f"Model {options.name} is not served any more."])
    return 0


def _add(options: argparse.Namespace) -> int:
    client, labels = AdminClient.of(options), dict(options.label)
    # Versions that are to be loaded cannot be labelled yet; labels that the model has already stay where they are.
    first = labels if options.no_wait else _labels(client, options.name)
    model = ModelConfig(
        name=options.name,
        base_path=options.base_path,
        platform=options.platform,
        policy=_policy(options),
        labels=first,
        transition=Transition(options.transition) if options.transition else None,
        lazy=True if options.lazy else None,
        pinned=options.pinned,
    )
    end = time.monotonic() + (options.timeout or float("inf"))
    answer = client.add(options.name, to_json(model), wait=not options.no_wait, timeout_ms=int(options.timeout * 1000))
    for label, version in labels.items() if not options.no_wait else ():
        while _is_coming(answer, version) and time.monotonic() < end:
            time.sleep(LOOK_AGAIN_S)
            answer = client.get(options.name)
        answer = client.set_label(options.name, label, version)
    return _show_model(options, answer)


def _is_coming(model: Mapping[str, Any], version: int) -> bool:
    states = {known["version"]: known["state"] for known in model["versions"]}
    return states.get(version) in (State.START.name, State.LOADING.name)


def _labels(client: AdminClient, name: str) -> Mapping[str, int]:
    try:
        labels: Mapping[str, int] = client.get(name)["config"].get("version_labels", {})
    except ServableError as error:
        if error.code == NotFoundError.code:
            return {}
        raise
    return labels


def _policy(options: argparse.Namespace) -> Policy:
    if options.all:
        return All()
    if options.versions:
        return Specific(options.versions)
    return Latest(options.latest or 1)


def _label(options: argparse.Namespace) -> int:
    if options.remove == (options.version is not None):
        raise FlagError("Expected a version for the label, or --remove")
    client = AdminClient.of(options)
    if options.remove:
        return _show_model(options, client.remove_label(options.name, options.label))
    return _show_model(options, client.set_label(options.name, options.label, options.version))


def _show_model(options: argparse.Namespace, model: Mapping[str, Any]) -> int:
    show(options, model, lambda: as_status(model))
    return 0


def as_list(listed: Sequence[Mapping[str, Any]]) -> list[str]:
    """A table of models."""
    if not listed:
        return ["No model is configured."]
    rows = [
        (
            model["config"]["name"],
            ", ".join(f"{version['version']} {version['state']}" for version in model["versions"]) or "none",
            _labels_text(model),
            _origin(model),
            model["config"]["base_path"],
        )
        for model in listed
    ]
    return aligned([("MODEL", "VERSIONS", "LABELS", "FROM", "BASE PATH"), *rows])


def as_status(model: Mapping[str, Any]) -> list[str]:
    """One model, with a line for each version."""
    config = model["config"]
    rows = [
        ("model", config["name"]),
        ("base path", config["base_path"]),
        ("platform", config["model_platform"]),
        ("serves", _policy_text(config.get("model_version_policy", {}))),
        ("labels", _labels_text(model) or "none"),
        ("from", _origin(model)),
    ]
    versions = [
        (f"version {version['version']}", f"{version['state']}  {_error(version['status'])}".rstrip())
        for version in model["versions"]
    ]
    return aligned(rows + (versions or [("versions", "none")]))


def _labels_text(model: Mapping[str, Any]) -> str:
    labels = model["config"].get("version_labels", {})
    return ", ".join(f"{label}={version}" for label, version in sorted(labels.items()))


def _origin(model: Mapping[str, Any]) -> str:
    return str(model["origin"]).lower().replace("_", " ")


def _error(status: Mapping[str, str]) -> str:
    """What went wrong; or why it is not there yet, which is no error."""
    return (
        status["error_message"]
        if status["error_code"] == "OK"
        else f"{status['error_code']}: {status['error_message']}"
    )


def _policy_text(policy: Mapping[str, Any]) -> str:
    if "all" in policy:
        return "all versions"
    if "specific" in policy:
        return f"versions {', '.join(map(str, policy['specific'].get('versions', ())))}"
    count = policy.get("latest", {}).get("num_versions", 1)
    return "the latest version" if count == 1 else f"the {count} latest versions"
