"""`--grpc_channel_arguments`: what it asks of gRPC connections, as far as that means something here."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from servable.errors import InvalidArgumentError
from servable.types import GrpcSpec

__all__ = ["ChannelArguments", "channel_arguments"]

FLAG = "--grpc_channel_arguments"
LONGEST = 2**31 - 1
MESSAGE_BYTES = "grpc.max_receive_message_length"
KNOWN = {
    "grpc.keepalive_time_ms": "keepalive_time_ms",
    "grpc.keepalive_timeout_ms": "keepalive_timeout_ms",
    "grpc.max_concurrent_streams": "max_concurrent_streams",
    "grpc.max_metadata_size": "max_metadata_bytes",
    "grpc.max_connection_age_ms": "max_age_ms",
    "grpc.max_connection_age_grace_ms": "max_age_grace_ms",
    "grpc.max_connection_idle_ms": "max_idle_ms",
}
"""Arguments with an effect, and what they are here."""
FOR_EVER = ("grpc.max_connection_age_ms", "grpc.max_connection_age_grace_ms", "grpc.max_connection_idle_ms")
"""Where the longest time means that there is no limit."""
LEAST = {MESSAGE_BYTES: -1, "grpc.max_connection_age_grace_ms": 0}


@dataclass(frozen=True)
class ChannelArguments:
    """What the flag says. `max_message_bytes` is `None` if it does not say it."""

    connections: GrpcSpec = field(default_factory=GrpcSpec)
    max_message_bytes: int | None = None
    without_effect: tuple[str, ...] = ()


def channel_arguments(text: str) -> ChannelArguments:
    """Read a list such as `grpc.keepalive_time_ms=60000,grpc.max_concurrent_streams=100`; the last of a name holds.

    `InvalidArgumentError` for an element that is none, and for a number that a known argument cannot have.
    """
    numbers: dict[str, int] = {}
    ignored: dict[str, None] = {}
    for element in text.split(",") if text else ():
        name, equals, rest = element.partition("=")
        if not equals or not name:
            raise InvalidArgumentError(f"{FLAG}: {element!r} is not of the form name=value")
        value = rest.partition("=")[0]  # as TensorFlow Serving does, without what follows a second one
        if name in KNOWN or name == MESSAGE_BYTES:
            numbers[name] = _number(name, value)
        else:
            ignored[name] = None
    message_bytes = numbers.pop(MESSAGE_BYTES, None)
    limits = {name: number for name, number in numbers.items() if name not in FOR_EVER or number < LONGEST}
    return ChannelArguments(
        connections=GrpcSpec(**{KNOWN[name]: number for name, number in limits.items()}),
        max_message_bytes=LONGEST if message_bytes == -1 else message_bytes,
        without_effect=tuple(ignored),
    )


def _number(name: str, text: str) -> int:
    least = LEAST.get(name, 1)
    is_wrong = not re.fullmatch(r"-?[0-9]{1,10}", text) or not least <= int(text) <= LONGEST
    if is_wrong or (name == MESSAGE_BYTES and int(text) == 0):
        raise InvalidArgumentError(
            f"{FLAG}: {name} takes a whole number up to {LONGEST}, from {max(0, least)} on, and not {text!r}"
        )
    return int(text)
