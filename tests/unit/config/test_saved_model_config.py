from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from servable.config.saved_model_config import SavedModelConfig, find, overridden

from tests.unit.fakes import FakeCodec

DISABLED = {"session_overrides": {"disable_meta_optimizer": True}}


def put(folder: Path, name: str, content: Any) -> str:
    extra = folder / "assets.extra"
    extra.mkdir(exist_ok=True)
    (extra / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return str(folder)


def test_most_versions_have_none(tmp_path: Path) -> None:
    assert find(str(tmp_path), FakeCodec()) is None


@pytest.mark.parametrize("name", ["saved_model_config.pb", "saved_model_config.pbtxt"])
def test_both_forms_are_read(tmp_path: Path, name: str) -> None:
    assert find(put(tmp_path, name, DISABLED), FakeCodec()) == SavedModelConfig(disable_meta_optimizer=True)


def test_binary_counts_where_both_are_there(tmp_path: Path) -> None:
    put(tmp_path, "saved_model_config.pbtxt", DISABLED)
    assert find(put(tmp_path, "saved_model_config.pb", {}), FakeCodec()) == SavedModelConfig()


def test_what_is_not_done_is_told(tmp_path: Path) -> None:
    content = {"session_overrides": {"batch_op_rewriter_config": {}}, "critical": True}
    config = find(put(tmp_path, "saved_model_config.pb", content), FakeCodec())
    assert config == SavedModelConfig(ignored=("batch_op_rewriter_config", "critical"))


def test_a_malformed_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1:1"):
        find(put(tmp_path, "saved_model_config.pbtxt", "nonsense"), FakeCodec())


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"graph_options": {"rewrite_options": {"disable_meta_optimizer": True}}}),
        (
            {"allow_soft_placement": True, "graph_options": {"rewrite_options": {"remapping": "OFF"}}},
            {
                "allow_soft_placement": True,
                "graph_options": {"rewrite_options": {"remapping": "OFF", "disable_meta_optimizer": True}},
            },
        ),
    ],
)
def test_an_override_leaves_the_rest_of_the_session(before: dict[str, Any], after: dict[str, Any]) -> None:
    session = json.dumps(before).encode()
    assert json.loads(overridden(session, SavedModelConfig(disable_meta_optimizer=True), FakeCodec())) == after
    assert overridden(session, SavedModelConfig(), FakeCodec()) == session
