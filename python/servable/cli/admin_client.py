"""A client of the admin port, on nothing but the standard library."""

from __future__ import annotations

import argparse
import base64
import http.client
import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

from servable.cli.credentials import Credentials
from servable.errors import InvalidArgumentError, ServableError

__all__ = ["AdminClient"]

CONNECT_TIMEOUT_S = 10.0
PREFIX = "/admin/v1/models"


class AdminClient:
    """Makes one connection per call. `ServableError` with the server's code, or UNAVAILABLE if it cannot be reached."""

    def __init__(self, address: str, credentials: Credentials) -> None:
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal():
            raise InvalidArgumentError(f"Expected --server to be HOST:PORT; got {address}")
        self._address = address
        self._host, self._port = host.strip("[]"), int(port)
        self._headers, self._tls = credentials.headers, credentials.tls()

    @classmethod
    def of(cls, options: argparse.Namespace) -> AdminClient:
        """The client that arguments of `Parser.add_server` ask for."""
        return cls(options.server, Credentials.of(options))

    def list(self) -> list[dict[str, Any]]:
        """All models that are configured."""
        models: list[dict[str, Any]] = self.listing()["models"]
        return models

    def listing(self) -> dict[str, Any]:
        """All models that are configured, and the names of those that were removed."""
        listing: dict[str, Any] = self._call("GET", ())
        return listing

    def get(self, name: str) -> dict[str, Any]:
        return self._model("GET", name)

    def add(self, name: str, config: Mapping[str, Any], *, wait: bool, timeout_ms: int = 0) -> dict[str, Any]:
        query = {"wait": str(wait).lower(), "timeout_ms": str(timeout_ms)}
        return self._model("PUT", name, body=config, query=query)

    def remove(self, name: str) -> None:
        self._call("DELETE", (name,))

    def set_label(self, name: str, label: str, version: int) -> dict[str, Any]:
        return self._model("PUT", name, "labels", label, body={"version": version})

    def remove_label(self, name: str, label: str) -> dict[str, Any]:
        return self._model("DELETE", name, "labels", label)

    def record(self, name: str, count: int, seconds: float) -> Sequence[bytes]:
        """The next requests that a model answers, as serialised `PredictionLog`s."""
        answer = self._call("POST", (name,), suffix=":record", body={"count": count, "seconds": seconds})
        return [base64.b64decode(record) for record in answer["records"]]

    def batching(self, name: str, version: int | None = None) -> dict[str, Any]:
        """What batching has done for the available versions of a model, or for one of them."""
        query = None if version is None else {"version": str(version)}
        answer: dict[str, Any] = self._call("GET", (name, "batching"), query=query)
        return answer

    def _connection(self) -> http.client.HTTPConnection:
        if self._tls is None:
            return http.client.HTTPConnection(self._host, self._port, timeout=CONNECT_TIMEOUT_S)
        return http.client.HTTPSConnection(self._host, self._port, timeout=CONNECT_TIMEOUT_S, context=self._tls)

    def _model(self, verb: str, *parts: str, **options: Any) -> dict[str, Any]:
        model: dict[str, Any] = self._call(verb, parts, **options)
        return model

    def _call(
        self,
        verb: str,
        parts: tuple[str, ...],
        *,
        suffix: str = "",
        body: Any = None,
        query: Mapping[str, str] | None = None,
    ) -> Any:
        target = "/".join([PREFIX, *(quote(part, safe="") for part in parts)]) + suffix
        if query:
            target = f"{target}?{urlencode(query)}"
        connection = self._connection()
        try:
            connection.connect()
            connection.sock.settimeout(None)  # models may take long to load
            connection.request(verb, target, None if body is None else json.dumps(body), dict(self._headers))
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise ServableError(
                f"no answer from the admin port at {self._address}: {error}. Is the server up, with --admin_port?",
                code="UNAVAILABLE",
            ) from error
        finally:
            connection.close()
        try:
            answer = json.loads(content)
            if response.status == http.client.OK:
                return answer
            raise ServableError(answer["error"], code=response.headers["servable-code"])
        except (ValueError, KeyError, TypeError) as error:
            raise ServableError(
                f"what answers at {self._address} is no admin port (status {response.status})", code="UNAVAILABLE"
            ) from error
