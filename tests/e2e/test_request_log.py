"""Sampled requests with their answers end up in files, and nothing that goes wrong there hurts a request."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path
from typing import Any

import grpc
import pytest
import tensorflow as tf
from tensorflow_serving.apis import classification_pb2, inference_pb2, regression_pb2

from tests.e2e.grpc_client import Grpc, array, code_of, predict_request, tensor
from tests.e2e.rest_client import Rest
from tests.e2e.server import MODELS, ServerProcess, wait_until
from tests.e2e.test_warmup import CLASSIFY, REGRESS, example, over_examples, read

EXAMPLES = MODELS / "ex"


def logging_config(prefix: str, kind: str = "file", rate: float = 1.0) -> str:
    return (
        f"logging_config {{ log_collector_config {{ type: '{kind}' filename_prefix: '{prefix}' }} "
        f"sampling_config {{ sampling_rate: {rate} }} }}"
    )


def config(logging: str, base_path: Path = EXAMPLES, name: str = "half") -> str:
    return (
        f"model_config_list {{ config {{ name: '{name}' base_path: '{base_path}' "
        f"model_platform: 'tensorflow' {logging} }} }}"
    )


def started(folder: Path, text: str, *flags: str) -> ServerProcess:
    file = folder / "models.config"
    file.write_text(text)
    return ServerProcess([f"--model_config_file={file}", "--file_system_poll_wait_seconds=0", *flags], folder / "log")


def ended(server: ServerProcess) -> None:
    server.process.terminate()
    assert server.process.wait(30) == 0, server.log


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("requests.*.tfrecord"))


def counted(server: ServerProcess, line: str) -> bool:
    with Rest(server.rest_port) as rest:
        return line in rest.get("/monitoring/prometheus/metrics", Accept="text/plain").body.decode().splitlines()


def ask_all(server: ServerProcess, model: str = "half") -> None:
    one, spec = example(x=1.0), model
    with Grpc(server.grpc_address) as client, Rest(server.rest_port) as rest:
        serialized = one.SerializeToString()
        client.predict(predict_request(model, {"inputs": tensor([serialized], tf.string)}, signature="tf2_regress"))
        body = {"signature_name": "tf2_regress", "instances": [{"b64": base64.b64encode(serialized).decode()}]}
        assert rest.predict(model, body).status == 200
        classification = over_examples(classification_pb2.ClassificationRequest(), one, signature="classify")
        regression = over_examples(regression_pb2.RegressionRequest(), one, signature="regress")
        for request, call in (
            (classification, client.prediction.Classify),
            (regression, client.prediction.Regress),
        ):
            request.model_spec.name = spec
            call(request, timeout=60)
        multi = over_examples(inference_pb2.MultiInferenceRequest(), one)
        for method, signature in ((CLASSIFY, "classify"), (REGRESS, "regress")):
            task = multi.tasks.add(method_name=method)
            task.model_spec.name, task.model_spec.signature_name = model, signature
        client.prediction.MultiInference(multi, timeout=60)


def logged(folder: Path, *flags: str) -> list[Any]:
    """What is logged of one request of each kind."""
    server = started(folder, config(logging_config(str(folder / "requests"))), *flags)
    try:
        server.wait_ready()
        ask_all(server)
        line = ':tensorflow:serving:request_log_count{model_name="half",status_code="OK"} 5'
        wait_until(lambda: counted(server, line), "all are counted")
        ended(server)
    finally:
        server.stop()
    assert not list(folder.glob("*.part"))
    assert {file.stat().st_mode & 0o777 for file in files(folder)} == {0o600}
    return [record for file in files(folder) for record in read(file)]


def test_requests_of_all_kinds_are_logged_with_their_answers(tmp_path: Path) -> None:
    records = logged(tmp_path)
    kinds = [record.WhichOneof("log_type") for record in records]
    assert kinds == ["predict_log", "predict_log", "classify_log", "regress_log", "multi_inference_log"]
    first, second = (record.predict_log for record in records[:2])
    assert array(first.request.inputs["inputs"]).tolist() == [example(x=1.0).SerializeToString()]
    assert first.response.outputs
    assert {name: array(output).tolist() for name, output in first.response.outputs.items()} == {
        name: array(output).tolist() for name, output in second.response.outputs.items()
    }
    assert len(records[3].regress_log.response.result.regressions) == 1
    assert len(records[4].multi_inference_log.response.results) == 2
    for record in records:
        metadata = record.log_metadata
        assert metadata.model_spec.name == "half"
        assert metadata.model_spec.version.value > 0
        assert metadata.sampling_config.sampling_rate == 1.0
        assert metadata.timestamp_secs > 1_500_000_000


def test_a_log_is_a_file_of_warm_up_requests(tmp_path: Path) -> None:
    logged(tmp_path)
    (version,) = [path for path in EXAMPLES.iterdir() if path.is_dir()]
    target = tmp_path / "warm" / version.name
    shutil.copytree(version, target)
    (target / "assets.extra").mkdir(exist_ok=True)
    shutil.copy(files(tmp_path)[0], target / "assets.extra" / "tf_serving_warmup_requests")
    server = started(tmp_path, config("", tmp_path / "warm", "warm"))
    try:
        server.wait_ready()
        assert "Number of warmup records read: 5" in server.log
    finally:
        server.stop()


def test_a_server_finishes_what_a_killed_one_left(tmp_path: Path) -> None:
    text = config(logging_config(str(tmp_path / "requests")))
    with started(tmp_path, text) as server:
        ask_all(server.wait_ready())
        line = ':tensorflow:serving:request_log_count{model_name="half",status_code="OK"} 5'
        wait_until(lambda: counted(server, line), "all are counted")
        server.process.kill()
        server.process.wait()
    assert [path.suffix for path in tmp_path.glob("requests.*")] == [".part"]
    with started(tmp_path, text) as server:
        server.wait_ready()
        wait_until(lambda: len(files(tmp_path)) == 1, "the file is finished")
    assert len(read(files(tmp_path)[0])) == 5
    assert not list(tmp_path.glob("*.part"))


def test_a_collector_that_fails_loses_records_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    server = started(tmp_path, config(logging_config(str(tmp_path / "file" / "requests"))))
    try:
        server.wait_ready()
        ask_all(server)
        dropped = 'servable_request_log_dropped_total{model="half",reason="collector_failed"} 5'
        wait_until(lambda: counted(server, dropped), "losses are counted")
        ended(server)
        assert server.log.count("fails (write), records may be lost") == 1
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("logging", "reason"),
    [
        (logging_config("/p", kind="x"), "Model half: logging_config.log_collector_config.type x is unknown"),
        (logging_config("/p", kind="no.such:Thing"), "cannot be imported"),
        (logging_config(""), "Model half: logging_config.log_collector_config.filename_prefix is missing"),
        (logging_config("relative"), "filename_prefix relative cannot be used"),
        ("logging_config { }", "Model half: logging_config.log_collector_config.type is missing"),
    ],
    ids=["type", "import", "no prefix", "prefix", "empty"],
)
def test_what_cannot_be_is_refused(logging: str, reason: str, running: ServerProcess) -> None:
    with Grpc(running.grpc_address) as client:
        with pytest.raises(grpc.RpcError) as raised:
            client.reload(config(logging))
        assert code_of(raised.value) == "INVALID_ARGUMENT"
        assert reason in str(raised.value.details())
        assert client.states("half") == {1: "AVAILABLE"}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Any:
    server = started(tmp_path_factory.mktemp("running"), config(""))
    yield server.wait_ready()
    server.stop()
