"""What `--grpc_channel_arguments` asks for."""

from __future__ import annotations

import pytest
from servable.config.channel_arguments import ChannelArguments, channel_arguments
from servable.errors import InvalidArgumentError
from servable.types import GrpcSpec


def test_nothing_is_asked_for() -> None:
    assert channel_arguments("") == ChannelArguments()


def test_arguments_with_an_effect() -> None:
    text = (
        "grpc.keepalive_time_ms=5000,grpc.keepalive_timeout_ms=1000,grpc.max_concurrent_streams=7,"
        "grpc.max_metadata_size=16384,grpc.max_receive_message_length=1048576"
    )
    assert channel_arguments(text) == ChannelArguments(GrpcSpec(5000, 1000, 7, 16384), 1048576)


def test_limits_on_the_life_of_connections() -> None:
    names = ("age", "age_grace", "idle")
    text = ",".join(f"grpc.max_connection_{name}_ms={number}" for number, name in enumerate(names, 5))
    spec = GrpcSpec(max_age_ms=5, max_age_grace_ms=6, max_idle_ms=7)
    assert channel_arguments(text) == ChannelArguments(spec)
    for_ever = ",".join(f"grpc.max_connection_{name}_ms={2**31 - 1}" for name in names)
    assert channel_arguments(for_ever) == ChannelArguments()
    at_once = channel_arguments("grpc.max_connection_age_grace_ms=0")
    assert at_once.connections.max_age_grace_ms == 0


def test_messages_without_a_limit() -> None:
    assert channel_arguments("grpc.max_receive_message_length=-1").max_message_bytes == 2**31 - 1


def test_others_are_named_and_have_no_effect() -> None:
    assert channel_arguments("a=b,grpc.max_concurrent_streams=7=8,a=c") == ChannelArguments(
        GrpcSpec(max_concurrent_streams=7), without_effect=("a",)
    )


@pytest.mark.parametrize("text", ["a", "a=1,b", "=1", ",", "a=1,"])
def test_an_element_without_a_value_is_an_error(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="not of the form name=value"):
        channel_arguments(text)


@pytest.mark.parametrize("value", ["", "x", "0", "-1", "2147483648", "1.5"])
def test_a_known_argument_takes_numbers(value: str) -> None:
    for name in ("grpc.keepalive_time_ms", "grpc.max_connection_age_ms"):
        with pytest.raises(InvalidArgumentError, match=f"{name} takes a whole number up to 2147483647, from 1 on"):
            channel_arguments(f"{name}={value}")
