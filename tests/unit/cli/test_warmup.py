from __future__ import annotations

import pytest
from servable.cli.warmup import bodies_in, warmup


@pytest.mark.parametrize(
    ("data", "bodies"),
    [
        (b'{"inputs": 1}\n\n{"inputs": 2.0}\n', [b'{"inputs": 1}', b'{"inputs": 2.0}']),
        (b'{\n "inputs": 1\n}\n', [b'{\n "inputs": 1\n}\n']),
        (b'[{"inputs": 1}, {"inputs": [NaN]}]', [b'{"inputs": 1}', b'{"inputs": [NaN]}']),
        (b"", []),
        (b"no JSON", [b"no JSON"]),
        (b"\xff", [b"\xff"]),
    ],
)
def test_bodies_come_one_a_line_or_as_one_value(data: bytes, bodies: list[bytes]) -> None:
    assert bodies_in(data) == bodies


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["mkae"], "unknown command mkae"),
        (["show"], "servable warmup show: the following arguments are required: path"),
        (["make", "/m", "--sizes=1"], "unrecognized arguments: --sizes=1"),
        (["make", "/absent"], "NOT_FOUND: /absent"),
        (["record"], "the following arguments are required: --model"),
        (["record", "--model=m", "--server=x"], "INVALID_ARGUMENT: Expected --server to be HOST:PORT; got x"),
        (["record", "--model=m", "--server=x", "--count=many"], "argument --count: invalid int value: 'many'"),
    ],
)
def test_a_command_line_that_is_wrong_says_why(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert warmup(arguments) == 255
    assert complaint in capsys.readouterr().err


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert warmup([]) == warmup(["make", "--help"]) == 0
    assert capsys.readouterr().out.count("usage: servable warmup show") == 2
