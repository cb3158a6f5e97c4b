from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from servable.storage.saved_model import lacks_variables, missing_part

from tests.e2e.server import MODELS

INDEX = "variables/variables.index"
FIRST, SECOND = (f"variables/variables.data-0000{index}-of-00002" for index in range(2))


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        ([], "saved_model.pb"),
        ([INDEX, FIRST, SECOND], "saved_model.pb"),
        (["saved_model.pb"], None),
        (["saved_model.pbtxt", "assets/x"], None),
        (["saved_model.pb", INDEX, FIRST, SECOND], None),
        (["saved_model.pb", INDEX, FIRST], SECOND),
        (["saved_model.pb", INDEX, SECOND], FIRST),
        (["saved_model.pb", FIRST, SECOND], INDEX),
        (["saved_model.pb", INDEX], "variables/variables.data-*"),
    ],
)
def test_what_an_upload_still_lacks(names: list[str], missing: str | None) -> None:
    assert missing_part(names) == missing


@pytest.mark.parametrize(
    ("model", "is_lacking"),
    [
        ("counter/1", True),
        ("keras/1", True),
        ("tf1/1", True),
        ("tf1_legacy/1", True),
        ("half/7", False),
        ("const/1", False),
        ("odd/1", False),
        ("tagged/1", False),
    ],
)
def test_a_graph_with_variables_needs_their_values(model: str, is_lacking: bool, tmp_path: Path) -> None:
    folder = tmp_path / "1"
    shutil.copytree(MODELS / model, folder)
    assert not lacks_variables(str(folder)) or not (folder / "variables").exists()
    shutil.rmtree(folder / "variables", ignore_errors=True)
    assert lacks_variables(str(folder)) == is_lacking


def test_what_cannot_be_read_lacks_nothing(tmp_path: Path) -> None:
    whole = (MODELS / "counter/1/saved_model.pb").read_bytes()
    for size in range(0, len(whole), 97):
        (tmp_path / "saved_model.pb").write_bytes(whole[:size])
        assert not lacks_variables(str(tmp_path))
    (tmp_path / "saved_model.pb").write_bytes(b"\xff" * 50)
    assert not lacks_variables(str(tmp_path))
    (tmp_path / "saved_model.pb").unlink()
    assert not lacks_variables(str(tmp_path))
