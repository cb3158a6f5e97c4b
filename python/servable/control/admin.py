"""The service `servable.admin.v1.Admin`: single models of a running server. Messages are decoded: proto JSON."""

from __future__ import annotations

import base64
import json
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from servable.config.codec import Codec
from servable.config.model_config import model_from_json, to_json
from servable.control.answers import Handler, Wait
from servable.errors import InvalidArgumentError, NotFoundError, ServableError, UnimplementedError
from servable.models.reload import Listed, Reloader, unavailable
from servable.types import ModelRoutes
from servable.warmup.recording import DEFAULT_COUNT, DEFAULT_SECONDS, Capturing, record

if TYPE_CHECKING:
    from servable.engine import Servable

__all__ = ["Admin"]

log = logging.getLogger(__name__)

SERVICE = "servable.admin.v1.Admin"
PACKAGE = "servable.admin.v1"

Message = Mapping[str, Any]


@dataclass(frozen=True)
class _Method:
    do: Callable[[Message], Message]
    request: str
    response: str
    waits_for: Wait = Wait.NOTHING
    """Who waits for nothing changes nothing."""


class Admin:
    """Does what calls ask for. `routes` tells what was published last, `server` records requests."""

    def __init__(
        self, reloader: Reloader, routes: Callable[[], Mapping[str, ModelRoutes]], server: Capturing, codec: Codec
    ) -> None:
        self._reloader = reloader
        self._routes = routes
        self._server = server
        self._codec = codec
        self._methods = {
            "ListModels": _Method(self._list, "ListModelsRequest", "ListModelsResponse"),
            "GetModel": _Method(self._get, "GetModelRequest", "Model"),
            "AddModel": _Method(self._add, "AddModelRequest", "Model", Wait.MODELS),
            "RemoveModel": _Method(self._remove, "RemoveModelRequest", "RemoveModelResponse", Wait.DISK),
            "SetLabel": _Method(self._set_label, "SetLabelRequest", "Model", Wait.DISK),
            "RemoveLabel": _Method(self._remove_label, "RemoveLabelRequest", "Model", Wait.DISK),
            "RecordRequests": _Method(self._record, "RecordRequestsRequest", "RecordRequestsResponse", Wait.MODELS),
            "GetBatching": _Method(self._batching, "GetBatchingRequest", "GetBatchingResponse"),
        }

    def rpc(self, name: str) -> Handler:
        """What answers this RPC, from message to message."""
        method = self._methods.get(name)
        if method is None:
            raise UnimplementedError(f"{SERVICE} has no method {name}")

        def answer(request: bytes) -> bytes:
            done = self._do(name, method, self._decoded(method, request))
            return self._codec.encode_json(f"{PACKAGE}.{method.response}", json.dumps(done))

        return Handler(answer, method.waits_for)

    def json(self, name: str, fields: Callable[[bytes], Message]) -> Handler:
        """What answers a REST request in the way of this RPC. `fields` makes the request message of the body."""
        method = self._methods[name]

        def answer(body: bytes) -> bytes:
            try:
                message = self._codec.encode_json(f"{PACKAGE}.{method.request}", json.dumps(fields(body)))
            except (ValueError, RecursionError) as error:
                raise InvalidArgumentError(f"The request does not fit: {error}") from error
            return json.dumps(self._do(name, method, self._decoded(method, message))).encode()

        return Handler(answer, method.waits_for)

    def _decoded(self, method: _Method, request: bytes) -> Message:
        try:
            decoded: Message = json.loads(self._codec.decode_message(f"{PACKAGE}.{method.request}", request))
        except ValueError as error:
            raise InvalidArgumentError(f"The request is no {method.request}: {error}") from error
        return decoded

    def _do(self, name: str, method: _Method, request: Message) -> Message:
        if method.waits_for is Wait.NOTHING:
            return method.do(request)
        log.info("%s %s", name, request.get("name") or request.get("config", {}).get("name", ""))
        try:
            return method.do(request)
        except ServableError as error:
            log.warning("%s failed: %s", name, error.message)
            raise

    def _list(self, request: Message) -> Message:
        routes = self._routes()
        listed = sorted(self._reloader.listed, key=lambda listed: listed.model.name)
        return {
            "models": [_described(one, routes) for one in listed],
            "removed": sorted(self._reloader.removed),
        }

    def _get(self, request: Message) -> Message:
        return self._model(_name(request))

    def _model(self, name: str) -> Message:
        for listed in self._reloader.listed:
            if listed.model.name == name:
                return _described(listed, self._routes())
        raise NotFoundError(f"Model {name} is not configured")

    def _add(self, request: Message) -> Message:
        fields = request.get("config", {})
        if not fields.get("model_type"):
            fields = {"model_platform": "tensorflow", **fields}
        model = model_from_json(fields)
        timeout_ms = request.get("timeout_ms", 0)
        if timeout_ms < 0:
            raise InvalidArgumentError(f"Expected timeout_ms to be 0 or more; got {timeout_ms}")
        resolution = self._reloader.add(model)
        if request.get("wait", True):
            if not resolution.wait(min(timeout_ms / 1e3, threading.TIMEOUT_MAX) or None):
                raise ServableError(
                    f"Model {model.name} is configured, but did not become available within {timeout_ms} ms",
                    code="DEADLINE_EXCEEDED",
                )
            if resolution.failures:
                raise unavailable("model(s)", resolution.failures)
        return self._model(model.name)

    def _remove(self, request: Message) -> Message:
        self._reloader.remove(_name(request))
        return {}

    def _set_label(self, request: Message) -> Message:
        self._reloader.label(_name(request), _label(request), request.get("version", 0))
        return self._model(_name(request))

    def _remove_label(self, request: Message) -> Message:
        self._reloader.label(_name(request), _label(request), None)
        return self._model(_name(request))

    def _record(self, request: Message) -> Message:
        name = _name(request)
        self._model(name)
        count, seconds = request.get("count") or DEFAULT_COUNT, request.get("seconds") or DEFAULT_SECONDS
        records = record(self._server, name, count, seconds)
        return {"records": [base64.b64encode(one).decode() for one in records]}

    def _batching(self, request: Message) -> Message:
        name, number = _name(request), request.get("version", 0)
        self._model(name)
        known = self._routes().get(name)
        reports = [
            {"version": version.version, **_batching_report(version.servable)}
            for version in (known.versions if known else ())
            if version.servable is not None and number in (0, version.version)
        ]
        if number and not reports:
            raise NotFoundError(f"Version {number} of model {name} is not available")
        return {"versions": reports}


def _name(request: Message) -> str:
    if not request.get("name"):
        raise InvalidArgumentError("Expected the name of a model; got none")
    return str(request["name"])


def _label(request: Message) -> str:
    if not request.get("label"):
        raise InvalidArgumentError("Expected a label; got none")
    return str(request["label"])


def _batching_report(servable: Servable) -> Message:
    report = servable.batching()
    if report is None:
        return {"mode": "none", "queues": []}
    decoded: Message = json.loads(report)
    return decoded


def _described(listed: Listed, routes: Mapping[str, ModelRoutes]) -> Message:
    known = routes.get(listed.model.name)
    versions = [
        {
            "version": version.version,
            "state": version.state,
            "status": {"error_code": version.error_code, "error_message": version.error_message or version.remark},
        }
        for version in (known.versions if known else ())
    ]
    return {"config": to_json(listed.model), "origin": listed.origin.name, "versions": versions}
