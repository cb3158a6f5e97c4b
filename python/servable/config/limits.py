"""Limits that follow from the memory that there is, where no flag says otherwise."""

from __future__ import annotations

from dataclasses import replace

from servable.types import LimitSpec

__all__ = ["fitted"]

MIB = 1 << 20
OWN = 192 * MIB
"""What the server takes for itself, TensorFlow included."""
HEAD = 408 << 10
"""What the head of a REST request may take."""
LEAST_IN_FLIGHT = 16 * MIB
LEAST_CONNECTIONS = 64
USUAL_IN_FLIGHT = 2048 * MIB
USUAL_DECOMPRESSED = 100 * MIB
USUAL_REPEATED = 256 * MIB
USUAL_CONNECTIONS = 10_000


def fitted(limits: LimitSpec, memory: int | None) -> tuple[LimitSpec, str]:
    """The limits for a process that may take so many bytes of memory, and what to log about them, if anything.

    Requests at work get a quarter of what the server leaves of it, one message half of that; heads that still come get
    another quarter. What is given stays as it is, and so do the engine's own defaults where they ask for less, or the
    memory is not limited (`None`).
    """
    if memory is None:
        return limits, ""
    quarter = (memory - OWN) // 4
    in_flight = max(quarter, LEAST_IN_FLIGHT)
    message = in_flight // 2
    derived = {}
    if in_flight < USUAL_IN_FLIGHT:
        derived = {
            "max_bytes_in_flight": in_flight,
            "max_message_bytes": message,
            "max_body_bytes": message,
            "max_decompressed_bytes": min(message, USUAL_DECOMPRESSED),
            "max_repeated_bytes": min(message, USUAL_REPEATED),
        }
    connections = max(quarter // HEAD, LEAST_CONNECTIONS)
    if connections < USUAL_CONNECTIONS:
        derived["max_connections"] = connections
    derived = {name: most for name, most in derived.items() if getattr(limits, name) is None}
    if not derived:
        return limits, ""
    text = ", ".join(f"--{name}={most}" for name, most in derived.items())
    return replace(limits, **derived), f"For a memory limit of {memory // MIB} MiB these limits hold: {text}"
