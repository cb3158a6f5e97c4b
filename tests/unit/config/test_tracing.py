"""Which variables of the environment switch traces on."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from servable.config.tracing import traces
from servable.errors import InvalidArgumentError

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}


@pytest.mark.parametrize(
    ("environment", "protocol"),
    [
        ({}, None),
        (ENDPOINT, "http/protobuf"),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "http/protobuf"),
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "grpc"),
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_PROTOCOL": "x"}, "grpc"),
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": "none"}, None),
        ({**ENDPOINT, "OTEL_SDK_DISABLED": "true"}, None),
    ],
)
def test_traces_are_made_where_a_collector_is_named(environment: Mapping[str, str], protocol: str | None) -> None:
    assert traces(environment) == protocol


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, "OTEL_EXPORTER_OTLP_PROTOCOL=http/json"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "https://collector"}, "OTEL_EXPORTER_OTLP_ENDPOINT=https://collector"),
    ],
)
def test_what_is_not_known_here_is_refused(environment: Mapping[str, str], words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        traces(environment)
