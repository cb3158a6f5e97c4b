"""What watches over a server: `grpc.health.v1`, whose two messages are small enough to be written by hand."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Any

import grpc

from tests.e2e.grpc_client import code_of

STANDINGS = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}


class HealthClient:
    """One connection that asks for health."""

    def __init__(self, port: int) -> None:
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)])

    def check(self, service: str = "") -> str:
        """A standing, or the code of the refusal."""
        check: Any = self.channel.unary_unary("/grpc.health.v1.Health/Check")
        try:
            return _standing(check(_request(service), timeout=60))
        except grpc.RpcError as error:
            return str(code_of(error))

    def watch(self, service: str = "") -> Iterator[str]:
        """Standings as they come. The call is made at once."""
        watch: Any = self.channel.unary_stream("/grpc.health.v1.Health/Watch")
        call = watch(_request(service), timeout=120)
        return (_standing(answer) for answer in call)

    def __enter__(self) -> HealthClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.channel.close()


def _request(service: str) -> bytes:
    name = service.encode()
    assert len(name) < 128
    return b"\x0a" + bytes([len(name)]) + name if name else b""


def _standing(answer: bytes) -> str:
    return STANDINGS[answer[1] if answer else 0]
