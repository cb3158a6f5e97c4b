"""Models with ops of other packages: served if the package is there, explained if it is not."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.e2e.handmade import node, placeholder, write_model, write_normalizer
from tests.e2e.rest_client import Rest
from tests.e2e.server import ServerProcess, hiding


@pytest.fixture
def normalizer(tmp_path: Path) -> Path:
    """The base path of a model that needs tensorflow-text."""
    write_normalizer(tmp_path / "normalizer" / "1")
    return tmp_path / "normalizer"


@pytest.mark.skipif(importlib.util.find_spec("tensorflow_text") is None, reason="tensorflow-text is not installed")
def test_ops_of_an_installed_package_need_no_flag(normalizer: Path, tmp_path: Path) -> None:
    flags = [f"--model_base_path={normalizer}", "--model_name=m"]
    with ServerProcess(flags, tmp_path / "log") as server, Rest(server.wait_ready().rest_port) as rest:
        assert rest.predict("m", {"inputs": ["ﬁne"]}).json == {"outputs": ["fine"]}


def test_a_missing_package_is_named(normalizer: Path, tmp_path: Path) -> None:
    flags = [f"--model_base_path={normalizer}", "--model_name=m"]
    environment = hiding(tmp_path / "hidden", "tensorflow_text")
    with ServerProcess(flags, tmp_path / "log", environment=environment) as server:
        assert server.exit_code() == 255
        assert "FAILED_PRECONDITION: Op type not registered 'NormalizeUTF8'" in server.log
        assert "pip install tensorflow-text (the version made for TensorFlow 2." in server.log
        assert "Retrying" not in server.log, "another attempt cannot succeed either"


def test_an_op_that_nobody_knows_is_named(tmp_path: Path) -> None:
    nodes = [placeholder("x", "DT_FLOAT"), node("y", "NobodyKnowsThis", ["x"])]
    write_model(tmp_path / "m" / "1", nodes, {"x": "DT_FLOAT"}, {"y": "DT_FLOAT"})
    with ServerProcess([f"--model_base_path={tmp_path / 'm'}"], tmp_path / "log") as server:
        assert server.exit_code() == 255
        assert "Op type not registered 'NobodyKnowsThis'" in server.log
        assert "--custom_op_library=<path>" in server.log


def test_a_custom_op_library_that_does_not_load_is_named(normalizer: Path, tmp_path: Path) -> None:
    flags = [f"--model_base_path={normalizer}", f"--custom_op_library={tmp_path / 'ops.so'}"]
    with ServerProcess(flags, tmp_path / "log") as server:
        assert server.exit_code() == 255
        assert f"The custom op library {tmp_path / 'ops.so'} cannot be loaded" in server.log


@pytest.mark.skipif(importlib.util.find_spec("tensorflow_text") is None, reason="tensorflow-text is not installed")
def test_a_custom_op_library_serves_models_with_its_ops(normalizer: Path, tmp_path: Path) -> None:
    spec = importlib.util.find_spec("tensorflow_text")
    assert spec is not None
    assert spec.submodule_search_locations
    library = Path(spec.submodule_search_locations[0]) / "python" / "ops" / "_normalize_ops.so"
    flags = [f"--model_base_path={normalizer}", "--model_name=m", f"--custom_op_library={library}"]
    # Hidden, so that the ops can only come from the flag.
    environment = hiding(tmp_path / "hidden", "tensorflow_text")
    with (
        ServerProcess(flags, tmp_path / "log", environment=environment) as server,
        Rest(server.wait_ready().rest_port) as rest,
    ):
        assert rest.predict("m", {"inputs": ["ﬁne"]}).json == {"outputs": ["fine"]}
