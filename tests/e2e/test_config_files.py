"""Files and flags of configuration, as a server starts with them or says why it does not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.e2e.rest_client import Rest
from tests.e2e.server import HALF_PLUS_TWO, MODELS, Model, ServerProcess, config_text, run_to_end, serving

ADAPTER = "type.googleapis.com/tensorflow.serving.SavedModelBundleSourceAdapterConfig"
PLATFORM = "platform_configs {{ key: '{name}' value {{ source_adapter_config {{ [{adapter}] {{ {fields} }} }} }} }}"


def failure(*flags: str) -> tuple[str, str]:
    """The error that a server does not start for, and its log."""
    done = run_to_end("tensorflow_model_server", "--port=0", "--grpc_socket_path=unused", *flags)
    assert done.returncode == 255, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("Failed to start server. Error: ")]
    return line.removeprefix("Failed to start server. Error: "), done.stderr


def platform(name: str = "tensorflow", adapter: str = ADAPTER, fields: str = "legacy_config { }") -> str:
    return PLATFORM.format(name=name, adapter=adapter, fields=fields)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("model_config_list {\n  config { nome: 'x' }\n}", "2:12: field 'nome' not found"),
        ("model_config_list {\n  config { name: 7 }", "2:18: expected a string, but found '7'; text stands in quotes"),
        ("{ 'model_config_list': {} }", "1:1: expected a field name, but found '{'; this is protobuf text and not"),
        ("model_config_list {\n", "2:1: expected '}' or a field name, but reached end of input; the brace in line 1"),
    ],
)
def test_a_mistake_is_told_with_its_place_and_what_would_be_right(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "models.config"
    file.write_text(text)
    error, log = failure(f"--model_config_file={file}")
    assert error == f"INVALID_ARGUMENT: Invalid protobuf file: '{file}'"
    assert f"Error parsing text-format tensorflow.serving.ModelServerConfig: {reason}" in log


def test_a_custom_configuration_says_what_to_write(tmp_path: Path) -> None:
    file = tmp_path / "models.config"
    file.write_text("custom_model_config { [type.googleapis.com/tensorflow.serving.ModelSpec] { name: 'x' } }")
    error, _ = failure(f"--model_config_file={file}")
    assert error.startswith("UNIMPLEMENTED: ModelServer does not yet support custom model config. Models stand in ")


def test_models_with_a_logging_config_are_served(tmp_path: Path) -> None:
    file = tmp_path / "models.config"
    collector = f"log_collector_config {{ type: 'file' filename_prefix: '{tmp_path}/log/m' }}"
    logging = f"logging_config {{ {collector} sampling_config {{ sampling_rate: 0.5 }} }}"
    text = config_text([Model("m", HALF_PLUS_TWO)]).replace("name: 'm'", f"name: 'm' {logging}")
    file.write_text(text)
    with (
        ServerProcess([f"--model_config_file={file}"], tmp_path / "server.log") as server,
        Rest(server.rest_port) as rest,
    ):
        server.wait_ready()
        assert rest.states("m") == {"1": "AVAILABLE"}


def test_a_platform_file_names_platforms_and_settings(tmp_path: Path) -> None:
    file = tmp_path / "platforms"
    fields = "legacy_config { session_config { allow_soft_placement: true } saved_model_tags: ['serve', 'special'] }"
    file.write_text(platform("mine", fields=fields))
    config = tmp_path / "models.config"
    config.write_text(config_text([Model("m", MODELS / "tagged")]).replace("'tensorflow'", "'mine'"))
    flags = [f"--platform_config_file={file}", f"--model_config_file={config}", "--saved_model_tags=ignored"]
    with ServerProcess(flags, tmp_path / "log") as server:
        server.wait_ready()
        assert "--saved_model_tags is ignored" in server.log
        with Rest(server.rest_port) as rest:
            assert rest.states("m") == {"1": "AVAILABLE"}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("platform_configs { key: 3 }", "INVALID_ARGUMENT: Invalid protobuf file: '{file}'"),
        (
            platform(adapter="type.googleapis.com/no.Such", fields=""),
            "INVALID_ARGUMENT: Invalid protobuf file: '{file}'",
        ),
        (
            platform(adapter="type.googleapis.com/tensorflow.serving.ModelSpec", fields=""),
            "INVALID_ARGUMENT: Couldn't find factory for config proto message type tensorflow.serving.ModelSpec.",
        ),
        (
            "platform_configs { key: 'tensorflow' value { source_adapter_config { type_url: 'x/no.Such' } } }",
            "INTERNAL: Unable to find compiled-in proto descriptor of type no.Such",
        ),
        (
            f"platform_configs {{ key: 'x' value {{ source_adapter_config {{ type_url: '{ADAPTER}' value: 'x' }} }} }}",
            "INVALID_ARGUMENT: Malformed content of Any: ",
        ),
        (platform("other"), "INVALID_ARGUMENT: Model default requests unsupported platform tensorflow"),
        (
            platform(fields="legacy_config { batching_parameters { num_batch_threads { value: 0 } } }"),
            "INVALID_ARGUMENT: num_batch_threads must be positive; was 0",
        ),
    ],
)
def test_platform_files_that_cannot_be(tmp_path: Path, text: str, error: str) -> None:
    file = tmp_path / "platforms"
    file.write_text(text)
    told, _ = failure(f"--model_base_path={HALF_PLUS_TWO}", f"--platform_config_file={file}")
    assert told.startswith(error.format(file=file))


def test_a_version_may_switch_the_optimizer_of_its_graph_off(tmp_path: Path) -> None:
    for name, content in [("good", "session_overrides { disable_meta_optimizer: true }"), ("bad", "nonsense")]:
        shutil.copytree(HALF_PLUS_TWO, tmp_path / name)
        extra = tmp_path / name / "1" / "assets.extra"
        extra.mkdir()
        (extra / "saved_model_config.pbtxt").write_text(content)
    with serving([Model(name, tmp_path / name) for name in ("good", "bad")], tmp_path) as server:
        assert server.log.count("Failed to load saved model config: ") == 1
        assert f"Failed to load saved model config: bad/1 in {tmp_path / 'bad' / '1'}: 1:9: expected ':'" in server.log
        with Rest(server.rest_port) as rest:
            for name in ("good", "bad"):
                assert rest.predict(name, {"instances": [2.0]}).json == {"predictions": [3.0]}


def test_relative_paths_lie_under_the_root(tmp_path: Path) -> None:
    models = [Model("half", Path("half")), Model("multi", MODELS / "multi")]
    with serving(models, tmp_path, f"--model_config_list_root_dir={MODELS}") as server, Rest(server.rest_port) as rest:
        assert rest.states("half") == {"7": "AVAILABLE"}


def test_labels_may_be_forced_or_off(tmp_path: Path) -> None:
    models = [Model("m", MODELS / "multi", labels={"stable": 3, "future": 9})]
    flag = "--force_allow_any_version_labels_for_unavailable_models"
    with serving(models, tmp_path, flag) as server, Rest(server.rest_port) as rest:
        assert rest.predict("m/labels/stable", {"inputs": 0}).json == {"outputs": 3.0}
        assert rest.predict("m/labels/future", {"inputs": 0}).status == 404
    with serving([Model("m", MODELS / "multi")], tmp_path, "--allow_version_labels=false") as server:
        with Rest(server.rest_port) as rest:
            refused = rest.predict("m/labels/stable", {"inputs": 0})
        assert refused.status == 400
        assert refused.error == "ModelSpec has 'version_label' set, but it is not currently allowed by the server."


def test_the_wait_for_the_first_models_may_be_limited(tmp_path: Path) -> None:
    error, _ = failure(f"--model_base_path={tmp_path}", "--servable_state_waiter_timeout_seconds=0.1")
    assert error == "DEADLINE_EXCEEDED: Not all of the first models became available within 0.1 s: default"


def test_a_flag_with_one_dash_is_told_of(tmp_path: Path) -> None:
    with ServerProcess([f"--model_base_path={HALF_PLUS_TWO}", "-enable_batching"], tmp_path / "log") as server:
        server.wait_ready()
        assert "unknown argument: -enable_batching. Flags begin with two dashes: --enable_batching" in server.log
        assert "Wrapping session to perform batch processing" not in server.log
