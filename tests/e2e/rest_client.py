"""Plain HTTP to the REST port."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Answer:
    """What an HTTP server says."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The message of an error, which has to be all there is."""
        assert self.headers["content-type"] == "application/json", self
        (message,) = self.json.values()
        assert list(self.json) == ["error"]
        assert isinstance(message, str)
        return message


class Rest:
    """One connection to the REST port, kept alive."""

    def __init__(self, port: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)

    def send(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        """Bodies that are neither text nor bytes go as JSON."""
        if body is not None and not isinstance(body, str | bytes):
            body = json.dumps(body)
        self.connection.request(method, path, body, dict(headers or {}))
        response = self.connection.getresponse()
        return Answer(response.status, response.headers, response.read())

    def get(self, path: str, **headers: str) -> Answer:
        return self.send("GET", path, headers=headers)

    def predict(self, model: str, body: Any) -> Answer:
        """`model` may go on with a version or a label, as URLs do."""
        return self.send("POST", f"/v1/models/{model}:predict", body)

    def states(self, model: str) -> dict[str, str]:
        """The state of each version; none for a model that is not known."""
        answer = self.get(f"/v1/models/{model}")
        if answer.status == http.client.NOT_FOUND:
            return {}
        return {version["version"]: version["state"] for version in answer.json["model_version_status"]}

    def close(self) -> None:
        self.connection.close()

    def __enter__(self) -> Rest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
