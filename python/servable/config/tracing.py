"""Whether and how traces are sent: the standard variables of OpenTelemetry's specification.

Only what decides whether there are traces is read here. Where the collector is, what is sampled and how much waits is
for OpenTelemetry's own library, in the engine, which reads the other variables itself.
"""

from __future__ import annotations

from collections.abc import Mapping

from servable.errors import InvalidArgumentError

__all__ = ["traces"]

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
KNOWN_PROTOCOLS = ("grpc", "http/protobuf")


def traces(environment: Mapping[str, str]) -> str | None:
    """The protocol to send traces by; `None` for no traces, as long as nobody names a collector.

    `InvalidArgumentError` for a protocol or an endpoint that is not known here.
    """
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    exporter = environment.get("OTEL_TRACES_EXPORTER", "")
    named = next(((name, environment[name]) for name in ENDPOINTS if environment.get(name)), None)
    if exporter not in ("", "otlp") or (not exporter and named is None):
        return None
    if named is not None and not named[1].startswith("http://"):
        raise InvalidArgumentError(
            f"{named[0]}={named[1]}: a collector is reached over http:// only; let one on this machine pass traces on"
        )
    variable, protocol = next(
        ((name, environment[name]) for name in PROTOCOLS if environment.get(name)), (PROTOCOLS[1], "http/protobuf")
    )
    if protocol not in KNOWN_PROTOCOLS:
        raise InvalidArgumentError(f"{variable}={protocol}: it has to be one of {', '.join(KNOWN_PROTOCOLS)}")
    return protocol
