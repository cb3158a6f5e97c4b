from __future__ import annotations

import json

import pytest
from servable.config.session_config import SessionOptions, has_own_threads, session_config, thread_counts
from servable.errors import InvalidArgumentError

from tests.unit.fakes import FakeCodec


@pytest.mark.parametrize(
    ("both", "intra", "inter", "expected"),
    [
        (None, None, None, {}),
        (4, None, None, {"intra": 4, "inter": 4}),
        (0, None, None, {"intra": 0, "inter": 0}),
        (None, 2, None, {"intra": 2}),
        (None, None, 3, {"inter": 3}),
        (4, 2, None, {"intra": 2}),
        (4, None, 3, {"inter": 3}),
        (4, 0, 0, {"intra": 4, "inter": 4}),
        (0, 2, 3, {"intra": 2, "inter": 3}),
        (None, 0, None, {"intra": 0}),
    ],
)
def test_thread_counts(both: int | None, intra: int | None, inter: int | None, expected: dict[str, int]) -> None:
    options = SessionOptions(parallelism=both, intra_op_parallelism=intra, inter_op_parallelism=inter)
    assert thread_counts(options) == {f"{kind}_op_parallelism_threads": n for kind, n in expected.items()}


def test_all_three_thread_counts_contradict_one_another() -> None:
    with pytest.raises(InvalidArgumentError, match="You cannot configure all"):
        thread_counts(SessionOptions(parallelism=1, intra_op_parallelism=1, inter_op_parallelism=1))


def test_nothing_asked_for_is_an_empty_message() -> None:
    assert session_config(SessionOptions(), "", FakeCodec()) == b""


def test_flags_override_the_file_field_by_field() -> None:
    text = '{"intra_op_parallelism_threads": 7, "gpu_options": {"allow_growth": true}, "allow_soft_placement": true}'
    options = SessionOptions(inter_op_parallelism=2, gpu_memory_fraction=0.5)
    assert json.loads(session_config(options, text, FakeCodec())) == {
        "intra_op_parallelism_threads": 7,
        "inter_op_parallelism_threads": 2,
        "gpu_options": {"allow_growth": True, "per_process_gpu_memory_fraction": 0.5},
        "allow_soft_placement": True,
    }


def test_bfloat16_is_a_rewrite_beside_those_of_the_file() -> None:
    text = '{"graph_options": {"rewrite_options": {"remapping": "OFF"}}}'
    assert json.loads(session_config(SessionOptions(bfloat16=True), text, FakeCodec())) == {
        "graph_options": {
            "rewrite_options": {"remapping": "OFF", "auto_mixed_precision_onednn_bfloat16": "ON"},
        }
    }


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"use_per_session_threads": True}, True),
        ({"session_inter_op_thread_pool": [{"num_threads": 2}]}, True),
        ({"allow_soft_placement": True}, False),
    ],
)
def test_thread_pools_of_a_session_are_noticed(fields: dict[str, object], expected: bool) -> None:
    codec = FakeCodec()
    assert has_own_threads(codec.encode_json("tensorflow.ConfigProto", json.dumps(fields)), codec) is expected


def test_without_options_thread_pools_are_shared() -> None:
    assert not has_own_threads(b"", FakeCodec())
