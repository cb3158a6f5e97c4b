"""Sampled requests with their answers end up in files, and nothing that goes wrong there hurts a request."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest
import tensorflow as tf
from tensorflow_serving.apis import classification_pb2, inference_pb2, regression_pb2

from tests.e2e.grpc_client import Grpc, array, code_of, predict_request, tensor
from tests.e2e.rest_client import Rest
from tests.e2e.server import MODELS, ServerProcess, run_to_end, wait_until
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


def started(folder: Path, text: str, *flags: str, environment: Mapping[str, str] | None = None) -> ServerProcess:
    file = folder / "models.config"
    file.write_text(text)
    arguments = [f"--model_config_file={file}", "--file_system_poll_wait_seconds=0", *flags]
    return ServerProcess(arguments, folder / "log", environment=environment)


def importing(folder: Path) -> dict[str, str]:
    """An environment for processes that can import what lies in a folder."""
    return {"PYTHONPATH": os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])}


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


def test_what_a_store_has_not_taken_is_uploaded_by_the_next_server(tmp_path: Path) -> None:
    store, spool = tmp_path / "store", tmp_path / "spool"
    store.write_text("no folder")
    text = config(logging_config(f"local://{store}/requests", kind="fsspec"))
    flag = f"--request_log_spool_dir={spool}"
    with started(tmp_path, text, flag) as server:
        ask_all(server.wait_ready())
        ended(server)
        assert f"The request log leaves records in {spool}/" in server.log
    store.unlink()
    with started(tmp_path, text, flag) as server:
        server.wait_ready()
        wait_until(lambda: len(files(store)) == 1, "the file is uploaded")
        ended(server)
    assert len(read(files(store)[0])) == 5
    assert not list(spool.iterdir())


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
        (logging_config("/p", kind="no.such:Thing"), "type no.such:Thing is unknown; there are: file, fsspec"),
        (
            logging_config("simplecache::s3://b/p", kind="fsspec"),
            "filename_prefix simplecache::s3://b/p cannot be used",
        ),
        (logging_config(""), "Model half: logging_config.log_collector_config.filename_prefix is missing"),
        (logging_config("relative"), "filename_prefix relative cannot be used"),
        ("logging_config { }", "Model half: logging_config.log_collector_config.type is missing"),
    ],
    ids=["type", "import", "chain", "no prefix", "prefix", "empty"],
)
def test_what_cannot_be_is_refused(logging: str, reason: str, running: ServerProcess) -> None:
    with Grpc(running.grpc_address) as client:
        with pytest.raises(grpc.RpcError) as raised:
            client.reload(config(logging))
        assert code_of(raised.value) == "INVALID_ARGUMENT"
        assert reason in str(raised.value.details())
        assert client.states("half") == {1: "AVAILABLE"}


OWN = """
class Collector:
    def __init__(self, prefix, options):
        self.file = open(prefix, "wb")
    def write(self, records):
        self.file.write(b"".join(records))
    def tend(self):
        self.file.flush()
    def waiting(self):
        return 0
    def close(self):
        self.file.close()
"""


def test_a_collector_of_the_operator_takes_records(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    text = config(logging_config(str(tmp_path / "records"), kind="mine"))
    flag = "--request_log_collector=mine=own:Collector"
    with started(tmp_path, text, flag, environment=importing(tmp_path)) as server:
        ask_all(server.wait_ready())
        wait_until(lambda: b"tf2_regress" in (tmp_path / "records").read_bytes(), "records are written")


@pytest.mark.parametrize(
    ("flag", "reason"),
    [
        ("mine=no.such:Thing", "--request_log_collector=mine=no.such:Thing cannot be imported: ModuleNotFoundError"),
        ("mine=os:Nothing", "--request_log_collector=mine=os:Nothing cannot be imported: AttributeError"),
        ("file=os:Nothing", "file is one of our own"),
        ("os:Nothing", "it has to be NAME=package.module:Class"),
    ],
)
def test_a_collector_that_cannot_be_ends_the_start(flag: str, reason: str, tmp_path: Path) -> None:
    with started(tmp_path, config(""), f"--request_log_collector={flag}") as server:
        assert server.exit_code() == 255
        assert reason in server.log


def test_a_check_of_a_file_knows_the_collectors_that_a_server_has(tmp_path: Path) -> None:
    file = tmp_path / "models.config"
    file.write_text(config(logging_config("/p", kind="mine")))
    checked = run_to_end("servable", "config", "check", str(file))
    assert (checked.returncode, "type mine of log_collector_config is unknown" in checked.stdout) == (255, True)
    flag = "--request_log_collector=mine=own:Collector"
    assert run_to_end("servable", "config", "check", str(file), flag).returncode == 0


def test_a_list_of_models_runs_no_code(running: ServerProcess, tmp_path: Path) -> None:
    """Neither what it names is called, nor is a module imported that it names."""
    (running.folder / "importable.py").write_text(f"open({str(tmp_path / 'was imported')!r}, 'w')")
    call = f"open({str(tmp_path / 'was called')!r}, 'w')".replace("'", "\\'")
    with Grpc(running.grpc_address) as client:
        for kind, prefix in (("cProfile:run", call), ("builtins:exec", call), ("importable:Collector", "/p")):
            with pytest.raises(grpc.RpcError) as raised:
                client.reload(config(logging_config(prefix, kind=kind)))
            assert code_of(raised.value) == "INVALID_ARGUMENT"
            assert f"Model half: logging_config.log_collector_config.type {kind} is unknown" in str(
                raised.value.details()
            )
        assert client.states("half") == {1: "AVAILABLE"}
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("running")
    server = started(folder, config(""), environment=importing(folder))
    yield server.wait_ready()
    server.stop()
