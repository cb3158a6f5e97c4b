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
        max_repeated_bytes=40 * MIB,
        max_connections=200,
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


def test_no_limit_is_larger_than_usual() -> None:
    limits, _ = fitted(LimitSpec(), 4096 * MIB)
    assert limits.max_decompressed_bytes == 100 * MIB
    assert limits.max_repeated_bytes == 256 * MIB


def test_heads_of_requests_take_no_more_than_there_is() -> None:
    assert fitted(LimitSpec(), 200 * MIB)[0].max_connections == 64
    limits, text = fitted(LimitSpec(), 8400 * MIB)
    assert limits == LimitSpec(max_connections=5150)
    assert text.endswith("these limits hold: --max_connections=5150")


def test_without_a_limit_or_with_much_memory_the_usual_limits_hold() -> None:
    assert fitted(LimitSpec(), None) == (LimitSpec(), "")
    assert fitted(LimitSpec(), 17 * 1024 * MIB) == (LimitSpec(), "")
