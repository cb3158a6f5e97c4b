from __future__ import annotations

import math

import pytest
from servable.storage.settling import Look, Settling, remaining_s

from tests.unit.fakes import FakeClock


@pytest.mark.parametrize(
    ("newest_s", "since_s", "expected"),
    [
        (0.0, 100.0, 0.0),  # old files count at once
        (999.0, 100.0, 0.0),
        (999.6, 100.0, 0.6),
        (999.6, 99.5, 0.5),  # the better evidence counts
        (5000.0, 100.0, 1.0),  # a clock that is ahead tells nothing
        (5000.0, 99.0, 0.0),
        (math.inf, 99.25, 0.25),
    ],
)
def test_how_long_a_version_has_to_stand_still(newest_s: float, since_s: float, expected: float) -> None:
    look = Look("stamp", first_s=0.0, since_s=since_s, latest_s=100.0)
    assert remaining_s(look, newest_s=newest_s, settle_s=1.0, now_s=1000.0) == pytest.approx(expected)


def test_a_change_starts_the_wait_anew() -> None:
    clock = FakeClock()
    settling = Settling(clock)
    settling.look("/m/1", "a")
    clock.now = 3.0
    assert settling.look("/m/1", "a") == Look("a", 0.0, 0.0, 3.0)
    clock.now = 4.0
    assert settling.look("/m/1", "b") == Look("b", 0.0, 4.0, 4.0)
    settling.forget("/m/1")
    assert settling.look("/m/1", "b") == Look("b", 4.0, 4.0, 4.0)


def test_what_nobody_asks_for_any_more_is_forgotten() -> None:
    clock = FakeClock()
    settling = Settling(clock)
    settling.look("/m/1", "a")
    clock.now = 601.0
    settling.look("/m/2", "a")
    assert settling.look("/m/1", "a").first_s == 601.0
