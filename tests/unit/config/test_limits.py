"""Limits that follow from the memory that there is."""

from __future__ import annotations

from servable.config.limits import fitted
from servable.types import LimitSpec

MIB = 1 << 20


def test_a_small_container_has_small_limits() -> None:
    limits, text = fitted(LimitSpec(), 512 * MIB)
    assert limits == LimitSpec(
        max_bytes_in_flight=80 * MIB,
        max_message_bytes=40 * MIB,
        max_body_bytes=40 * MIB,
        max_decompressed_bytes=40 * MIB,
    )
    assert "512 MiB" in text
    assert f"--max_message_bytes={40 * MIB}" in text


def test_what_is_given_stays() -> None:
    given = LimitSpec(max_message_bytes=200 * MIB, max_bytes_in_flight=300 * MIB)
    limits, text = fitted(given, 512 * MIB)
    assert limits.max_message_bytes == 200 * MIB
    assert limits.max_bytes_in_flight == 300 * MIB
    assert limits.max_body_bytes == 40 * MIB
    assert "max_message_bytes" not in text


def test_bodies_are_inflated_to_no_more_than_usual() -> None:
    assert fitted(LimitSpec(), 4096 * MIB)[0].max_decompressed_bytes == 100 * MIB


def test_without_a_limit_or_with_much_memory_the_usual_limits_hold() -> None:
    assert fitted(LimitSpec(), None) == (LimitSpec(), "")
    assert fitted(LimitSpec(), 8400 * MIB) == (LimitSpec(), "")
