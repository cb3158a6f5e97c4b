"""When two answers are the same."""

from __future__ import annotations

from typing import Any

import pytest
from servable.cli.comparison import compare


def answer(**outputs: Any) -> dict[str, Any]:
    return {"outputs": outputs}


@pytest.mark.parametrize(
    ("got", "logged", "differ"),
    [
        ([1.0, 2.0], [1.0, 2.0], False),
        ([1.0], [1.000001], False),
        ([1.0], [1.1], True),
        ([1_000_003], [1_000_000], True),
        (["NaN"], ["NaN"], False),
        (["Infinity"], [1.0], True),
        (["NaN"], [1.0], True),
        ([1.0], [1.0, 2.0], True),
        (["a"], ["b"], True),
    ],
)
def test_numbers_may_differ_a_little_and_nothing_else(got: Any, logged: Any, differ: bool) -> None:
    found = compare(answer(y=got), answer(y=logged), 1e-5)
    assert bool(found) == differ
    assert all(one.where == "y" for one in found)


def test_outputs_that_one_side_lacks_are_named() -> None:
    found = compare(answer(a=[1.0]), answer(b=[1.0]), 1e-5)
    assert [(one.where, one.what) for one in found] == [
        ("a", "the output was not logged"),
        ("b", "the output is missing"),
    ]
