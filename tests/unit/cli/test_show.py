from __future__ import annotations

from pathlib import Path

import pytest
from servable.cli.show import as_text, version_folder
from servable.errors import NotFoundError

DESCRIPTION = {
    "meta_graphs": [
        {
            "tags": ["serve"],
            "tensorflow_version": "2.21.0",
            "signatures": {
                "serving_default": {
                    "method_name": "tensorflow/serving/predict",
                    "inputs": {
                        "x": {"dtype": "DT_FLOAT", "shape": [-1, 3], "tensor": "x:0", "has_default": False},
                        "image": {"dtype": "DT_STRING", "shape": None, "tensor": "i:0", "has_default": True},
                    },
                    "outputs": {"y": {"dtype": "DT_FLOAT", "shape": [], "tensor": "y:0", "has_default": False}},
                },
                "__saved_model_init_op": {"method_name": "", "inputs": {}, "outputs": {}},
                "empty": {"method_name": "", "inputs": {}, "outputs": {}},
            },
        }
    ]
}


def test_signatures_are_aligned() -> None:
    assert as_text(DESCRIPTION).splitlines() == [
        "tags: serve   (saved by TensorFlow 2.21.0)",
        "",
        "  empty",
        "",
        "  serving_default   tensorflow/serving/predict",
        "    in   image  string  any shape  optional",
        "         x      float   [?, 3]",
        "    out  y      float   []",
    ]


def test_the_newest_version_of_a_model_is_shown(tmp_path: Path) -> None:
    (tmp_path / "9").mkdir()
    (tmp_path / "10").mkdir()
    assert version_folder(str(tmp_path)) == str(tmp_path / "10")


def test_a_version_folder_is_shown_itself(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "saved_model.pb").touch()
    assert version_folder(str(tmp_path)) == str(tmp_path)


@pytest.mark.parametrize("name", ["", "absent"])
def test_a_folder_without_models_is_an_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        version_folder(str(tmp_path / name))
