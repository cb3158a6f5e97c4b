"""The REST form of the admin service: verbs and paths to RPCs, bodies to their messages."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote

from servable.control.admin import Admin
from servable.control.answers import Handler
from servable.errors import InvalidArgumentError, NotFoundError, UnimplementedError

__all__ = ["Route", "find"]

Names = Mapping[str, str]
"""The parts of a path, and of its query, that have names."""


@dataclass(frozen=True)
class Route:
    """An operation: its verb, its path, the RPC that does it, and how the request message is made."""

    verb: str
    path: str
    rpc: str
    message: Callable[[Names, Any], Mapping[str, Any]] = lambda names, body: names
    query: tuple[str, ...] = ()
    """What may follow a question mark."""


def _added(names: Names, body: Any) -> Mapping[str, Any]:
    if not isinstance(body, dict):
        raise InvalidArgumentError("Expected the body to be a JSON object: the fields of a ModelConfig")
    if body.get("name", names["name"]) != names["name"]:
        raise InvalidArgumentError(f"Expected the name in the body to be that in the path; got {body['name']}")
    message: dict[str, Any] = {"config": {**body, "name": names["name"]}}
    if "wait" in names:
        message["wait"] = _switch("wait", names["wait"])
    if "timeout_ms" in names:
        message["timeout_ms"] = names["timeout_ms"]
    return message


def _labelled(names: Names, body: Any) -> Mapping[str, Any]:
    if not isinstance(body, dict) or body.keys() != {"version"}:
        raise InvalidArgumentError('Expected the body to be {"version": <number>}')
    return {**names, **body}


def _recorded(names: Names, body: Any) -> Mapping[str, Any]:
    if not isinstance(body, dict) or not body.keys() <= {"count", "seconds"}:
        raise InvalidArgumentError('Expected the body to be {"count": <number>, "seconds": <number>}')
    return {**names, **body}


def _of_version(names: Names, body: Any) -> Mapping[str, Any]:
    version = names.get("version", "0")
    if not version.isdecimal():
        raise InvalidArgumentError(f"Expected version to be a number; got {version}")
    return {**names, "version": int(version)}


def _switch(name: str, text: str) -> bool:
    if text not in ("true", "false"):
        raise InvalidArgumentError(f"Expected {name} to be true or false; got {text}")
    return text == "true"


MODEL = "/admin/v1/models/{name}"

ROUTES = (
    Route("GET", "/admin/v1/models", "ListModels"),
    Route("GET", MODEL, "GetModel"),
    Route("PUT", MODEL, "AddModel", _added, query=("wait", "timeout_ms")),
    Route("DELETE", MODEL, "RemoveModel"),
    Route("PUT", f"{MODEL}/labels/{{label}}", "SetLabel", _labelled),
    Route("DELETE", f"{MODEL}/labels/{{label}}", "RemoveLabel"),
    Route("GET", f"{MODEL}/batching", "GetBatching", _of_version, query=("version",)),
    Route("POST", f"{MODEL}:record", "RecordRequests", _recorded),
)


def find(method: str, admin: Admin) -> Handler:
    """What answers a REST request. `NOT_FOUND` for a path, `UNIMPLEMENTED` for a verb that is not known."""
    verb, _, target = method.partition(" ")
    path, _, query = target.partition("?")
    verbs = []
    for route in ROUTES:
        matched = re.fullmatch(_pattern(route.path), path)
        if matched and route.verb == verb:
            names = {name: _decoded(text) for name, text in matched.groupdict().items()}
            return _handler(route, names | _query(route, query), admin)
        if matched:
            verbs.append(route.verb)
    if verbs:
        raise UnimplementedError(f"{verb} is not done with {path}; it takes {', '.join(verbs)}")
    raise NotFoundError(f"Nothing is at {path}; models are at /admin/v1/models")


def _handler(route: Route, names: Names, admin: Admin) -> Handler:
    return admin.json(route.rpc, lambda body: route.message(names, _json(body)))


def _pattern(path: str) -> str:
    return re.sub(r"\{(\w+)\}", r"(?P<\1>[^/:]+)", path)


def _decoded(text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError as error:
        raise InvalidArgumentError(f"Expected UTF-8 after percent-decoding; got {text}") from error


def _query(route: Route, query: str) -> dict[str, str]:
    names = dict(parse_qsl(query, keep_blank_values=True))
    unknown = names.keys() - set(route.query)
    if unknown:
        raise InvalidArgumentError(f"{route.verb} {route.path} takes no {', '.join(sorted(unknown))}")
    return names


def _json(body: bytes) -> Any:
    if not body:
        return {}
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidArgumentError(f"The body is no JSON: {error}") from error
