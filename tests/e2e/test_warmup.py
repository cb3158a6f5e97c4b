"""Versions are warm before anybody can reach them, and people can see and make what they are warmed up with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from tensorflow_serving.apis import classification_pb2, inference_pb2, prediction_log_pb2, regression_pb2

from tests.e2e.grpc_client import Grpc, array, predict_request, tensor
from tests.e2e.rest_client import Rest
from tests.e2e.server import HALF_PLUS_TWO, MODELS, Model, ServerProcess, free_ports, run_to_end, serving
from tests.e2e.test_config_files import platform

NO_RETRIES = "--max_num_load_retries=0"
CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"


def log(**logs: Any) -> Any:
    """A `PredictionLog` whose request, if it has one, is as given: `log(predict=request)`."""
    made = prediction_log_pb2.PredictionLog()
    for kind, request in logs.items():
        getattr(made, f"{kind}_log").request.CopyFrom(request)
    return made


def adding(number: int) -> Any:
    """A request that adds to the model `counter`; what it says of model and version does not matter."""
    by = tensor([number], tf.int64)
    return log(predict=predict_request("another", {"by": by}, signature="add", version=99))


def write(version: Path, records: Sequence[Any]) -> Path:
    """Give a version a file of warm-up requests, as TensorFlow writes it. Messages, or bytes that are none."""
    path = version / "assets.extra" / "tf_serving_warmup_requests"
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record if isinstance(record, bytes) else record.SerializeToString())
    return path


def read(path: Path) -> list[Any]:
    """The records of a file, as TensorFlow reads it."""
    return [
        prediction_log_pb2.PredictionLog.FromString(record.numpy()) for record in tf.data.TFRecordDataset(str(path))
    ]


def copied(folder: Path, model: str, version: int = 1, name: str | None = None) -> Path:
    """A copy of a model's version 1, whose folder may be changed."""
    target = folder / (name or model) / str(version)
    shutil.copytree(MODELS / model / "1", target)
    return target


@contextmanager
def with_metrics(models: Sequence[Model], folder: Path, *flags: str) -> Iterator[ServerProcess]:
    monitoring = folder / "monitoring.config"
    monitoring.write_text("prometheus_config { enable: true, path: '/metrics' }")
    with serving(models, folder, f"--monitoring_config_file={monitoring}", *flags) as server:
        yield server


def metrics(server: ServerProcess, name: str) -> list[str]:
    """Labels and values of a metric."""
    with Rest(server.rest_port) as rest:
        lines = rest.get("/metrics").body.decode().splitlines()
    prefix = f":tensorflow:serving:{name}"
    return [line.removeprefix(prefix) for line in lines if line.startswith(prefix + "{")]


def counted(server: ServerProcess, model: str = "counter") -> int:
    with Grpc(server.grpc_address) as grpc:
        return int(array(grpc.predict(predict_request(model, {}, signature="read")).outputs["count"]))


# Files.


@pytest.mark.parametrize(
    ("flags", "expected"),
    [((), 110), (("--num_request_iterations_for_warmup=3",), 330), (("--enable_model_warmup=false",), 0)],
    ids=["once", "three times", "off"],
)
def test_a_model_that_brings_requests_has_answered_them(flags: Sequence[str], expected: int, tmp_path: Path) -> None:
    with with_metrics([Model("warm", MODELS / "warm")], tmp_path, *flags) as server:
        runs = 2 * (expected // 110)
        labels = 'model_name="warm",API="Predict",runtime="TF1"'
        assert metrics(server, "runtime_latency_count") == ([f"{{{labels}}} {runs}"] if runs else [])
        assert metrics(server, "request_count") == metrics(server, "request_latency_count") == []
        labels = f'{{model_path="{MODELS / "warm" / "1"}",status="OK"}}'
        assert metrics(server, "model_warmup_records_read") == ([f"{labels} 2"] if expected else [])
        assert metrics(server, "model_warmup_latency_count") == ([f"{labels} 1"] if expected else [])
        assert counted(server, "warm") == expected
        path = MODELS / "warm" / "1" / "assets.extra" / "tf_serving_warmup_requests"
        assert (f"Starting to read warmup data for model at {path}" in server.log) == bool(expected)
        finished = f"Finished reading warmup data for model at {path}. Number of warmup records read: 2. Elapsed time ("
        assert (finished in server.log) == bool(expected)


def test_a_platform_file_says_how_requests_are_sent(tmp_path: Path) -> None:
    platforms = tmp_path / "platforms.config"
    platforms.write_text(
        'platform_configs { key: "tensorflow" value { source_adapter_config { '
        "[type.googleapis.com/tensorflow.serving.SavedModelBundleSourceAdapterConfig] { legacy_config { "
        "enable_model_warmup: true model_warmup_options { num_request_iterations { value: 3 } "
        "num_model_warmup_threads { value: 4 } enable_all_batch_sizes_warmup: true } } } } } }"
    )
    models = [Model("warm", MODELS / "warm")]
    with with_metrics(models, tmp_path, f"--platform_config_file={platforms}") as server:
        assert counted(server, "warm") == 330
        field = "model_warmup_options.enable_all_batch_sizes_warmup"
        assert f"{platforms}: {field} of platform tensorflow has no effect" in server.log


def example(**features: float) -> Any:
    made = tf.train.Example()
    for name, value in features.items():
        made.features.feature[name].float_list.value.append(value)
    return made


def over_examples(request: Any, *examples: Any, signature: str = "") -> Any:
    request.input.example_list.examples.extend(examples)
    if signature:
        request.model_spec.signature_name = signature
    return request


def test_requests_of_all_kinds_are_sent(tmp_path: Path) -> None:
    one = example(x=1.0)
    multi = over_examples(inference_pb2.MultiInferenceRequest(), one)
    for signature, method in (("classify", CLASSIFY), ("regress", REGRESS)):
        task = multi.tasks.add(method_name=method)
        task.model_spec.name, task.model_spec.signature_name = "another", signature
    serialized = tensor([one.SerializeToString()], tf.string)
    records = [
        log(classify=over_examples(classification_pb2.ClassificationRequest(), one, one, signature="classify")),
        log(regress=over_examples(regression_pb2.RegressionRequest(), one, signature="regress")),
        log(multi_inference=multi),
        log(predict=predict_request("", {"inputs": serialized}, signature="tf2_regress")),
        log(),
    ]
    write(copied(tmp_path, "ex"), records)
    with with_metrics([Model("ex", tmp_path / "ex")], tmp_path, NO_RETRIES) as server:
        (line,) = metrics(server, "model_warmup_records_read")
        assert line.endswith(" 5")


def session_run() -> Any:
    return log(session_run=prediction_log_pb2.SessionRunLog().request)


BROKEN = [
    ([session_run()], 12, "Unsupported log_type for warmup: 5"),
    ([log(predict=predict_request("", {}, signature="no"))], 9, 'Serving signature key "no" not found.; '),
    ([adding(1), log(predict=predict_request("", {}, signature="add"))], 3, "warm-up record 2 of {path}"),
    ([b"\x30no record"], 3, "Failed to parse warmup record: 0no record from {path}"),
    ([adding(1)] * 1001, 3, "Number of warmup records exceeds the maximum (1000) at {path}"),
    (
        b"this is no file of records at all",
        15,
        "corrupted record at 0 in {path}. Please verify your warmup data is in TFRecord format.",
    ),
]


@pytest.mark.parametrize(("records", "code", "message"), BROKEN, ids=[str(index) for index in range(len(BROKEN))])
def test_a_version_that_cannot_be_warmed_up_is_not_served(
    records: list[Any] | bytes, code: int, message: str, tmp_path: Path
) -> None:
    """The version before it goes on."""
    models = tmp_path / "counter"
    copied(tmp_path, "counter")
    with serving([Model("counter", models)], tmp_path, NO_RETRIES) as server, Grpc(server.grpc_address) as grpc:
        aside = copied(tmp_path, "counter", 2, "aside")
        path = write(aside, records if isinstance(records, list) else [])
        if isinstance(records, bytes):
            path.write_bytes(records)
        aside.rename(models / "2")
        server.wait_for(lambda: grpc.states("counter").get(2) == "END", "version 2 has failed")
        ((_, _, found, text),) = grpc.status("counter", 2)
        assert found == code
        assert message.format(path=models / "2" / "assets.extra" / "tf_serving_warmup_requests") in text
        assert grpc.states("counter")[1] == "AVAILABLE"
        assert counted(server) == 0


def test_a_version_is_available_only_after_its_warm_up(tmp_path: Path) -> None:
    models = tmp_path / "slow"
    copied(tmp_path, "slow")
    request = predict_request("", {"x": [1.0], "ms": tensor(1500, tf.int64)}, signature="ms")
    with serving([Model("slow", models)], tmp_path) as server, Grpc(server.grpc_address) as grpc:
        aside = copied(tmp_path, "slow", 2, "aside")
        write(aside, [log(predict=request)])
        aside.rename(models / "2")
        server.wait_for(lambda: "Starting to read warmup data" in server.log, "warm-up begins")
        assert grpc.states("slow") == {1: "AVAILABLE", 2: "LOADING"}
        quick = predict_request("slow", {"x": [3.0], "ms": tensor(0, tf.int64)}, signature="ms")
        assert grpc.predict(quick).model_spec.version.value == 1, "the old version answers meanwhile"
        server.wait_for(lambda: grpc.states("slow").get(2) == "AVAILABLE", "version 2 is there")
        assert "Finished reading warmup data" in server.log


# Requests made from signatures.


def test_requests_are_made_for_versions_that_bring_none(tmp_path: Path) -> None:
    models = [Model(name, MODELS / name) for name in ("counter", "warm", "fail", "mm", "ex", "sparse", "lookup")]
    flags = ("--synthesize_warmup", "--synthesize_warmup_batch_sizes=1,2", "--num_request_iterations_for_warmup=2")
    with with_metrics(models, tmp_path, *flags) as server:
        assert metrics(server, "request_count") == []
        assert counted(server) == 2, "`serving_default` counts, `add` got zeros"
        assert counted(server, "warm") == 220, "a version with a file gets nothing but its requests"
        read = {line.split('"')[1]: int(line.split()[-1]) for line in metrics(server, "model_warmup_records_read")}
        assert read[str(MODELS / "mm" / "1")] == 2
        assert read[str(MODELS / "counter" / "1")] == 4
        assert read[str(MODELS / "sparse" / "1")] == 0
        refused = f"No warm-up request for signature divide of {MODELS / 'fail' / '1'}: "
        assert server.log.count(refused) == 1
        assert "Integer division by zero" in server.log.partition(refused)[2].splitlines()[0]


def test_a_platform_file_decides_that_none_are_made(tmp_path: Path) -> None:
    file = tmp_path / "platforms"
    file.write_text(platform(fields="legacy_config { enable_model_warmup: true }"))
    flags = (f"--platform_config_file={file}", "--synthesize_warmup", "--synthesize_warmup_batch_sizes=1,2")
    with with_metrics([Model("counter", MODELS / "counter")], tmp_path, *flags) as server:
        assert "--synthesize_warmup is ignored" in server.log
        assert metrics(server, "model_warmup_records_read") == []
        assert counted(server) == 0


@pytest.mark.parametrize("brings", [True, False], ids=["recorded", "made"])
def test_the_sizes_that_batches_are_filled_up_to_are_warm(brings: bool, tmp_path: Path) -> None:
    version = copied(tmp_path, "mm")
    parameters = "max_batch_size { value: 4 } allowed_batch_sizes: [2, 4]"
    (version / "batching_params.pbtxt").write_text(parameters)
    if brings:
        write(version, [log(predict=predict_request("", {"x": [[1.0, 2.0, 3.0]]}))])
    flags = ("--enable_batching", "--enable_per_model_batching_parameters", "--synthesize_warmup")
    with with_metrics([Model("mm", tmp_path / "mm")], tmp_path, *flags) as server:
        (runs,) = metrics(server, "runtime_latency_count")
        assert runs.endswith(" 3"), "one row, two and four"
        (records,) = metrics(server, "model_warmup_records_read")
        assert records.endswith(" 1" if brings else " 3")


# Commands.


def make(*arguments: str) -> str:
    done = run_to_end("servable", "warmup", "make", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_file_is_made_from_signatures_and_served(tmp_path: Path) -> None:
    version = copied(tmp_path, "mm")
    copied(tmp_path, "mm", 0)
    path = version / "assets.extra" / "tf_serving_warmup_requests"
    assert make(str(tmp_path / "mm"), "--batch_sizes=1,8") == f"Wrote {path}, requests: 2\n"
    requests = [record.predict_log.request for record in read(path)]
    assert [array(request.inputs["x"]).tolist() for request in requests] == [[[0.0] * 3], [[0.0] * 3] * 8]
    again = run_to_end("servable", "warmup", "make", str(tmp_path / "mm"))
    assert again.returncode == 255
    assert again.stderr.endswith(f"ALREADY_EXISTS: {path} exists; --force replaces it\n")
    make(str(tmp_path / "mm"), "--force")
    assert len(read(path)) == 1
    with with_metrics([Model("mm", tmp_path / "mm")], tmp_path) as server:
        assert [line.split()[-1] for line in metrics(server, "model_warmup_records_read")] == ["1"]


def test_what_a_model_refuses_is_left_out(tmp_path: Path) -> None:
    out = tmp_path / "records"
    done = run_to_end("servable", "warmup", "make", str(MODELS / "fail"), f"--out={out}")
    assert done.returncode == 0
    assert "Left out: signature divide: Integer division by zero" in done.stderr
    signatures = {record.predict_log.request.model_spec.signature_name for record in read(out)}
    assert signatures == {"check", "gather"}
    make(str(MODELS / "fail"), f"--out={out}", "--force", "--unchecked", "--signature=divide")
    assert [record.predict_log.request.model_spec.signature_name for record in read(out)] == ["divide"]


def test_a_file_is_made_from_bodies(tmp_path: Path) -> None:
    bodies, out = tmp_path / "bodies.jsonl", tmp_path / "records"
    bodies.write_text('{"signature_name": "add", "inputs": [7]}\n{"inputs": [8]}\n')
    make(str(MODELS / "counter"), f"--from={bodies}", "--signature=add", f"--out={out}")
    assert [array(record.predict_log.request.inputs["by"]).tolist() for record in read(out)] == [[7], [8]]

    bodies.write_text(
        '[{"examples": [{"x": 1.0}, {"x": 2.0}], "signature_name": "classify"}, {"examples": [{"x": 1.0}]}]'
    )
    make(str(MODELS / "ex"), f"--from={bodies}", "--signature=regress", f"--out={out}", "--force")
    first, second = read(out)
    assert first.classify_log.request.input.example_list.examples[1] == example(x=2.0)
    assert second.regress_log.request.model_spec.signature_name == "regress"

    bodies.write_text('{"examples": [{"y": 1.0}]}')
    done = run_to_end(
        "servable", "warmup", "make", str(MODELS / "ex"), f"--from={bodies}", "--signature=regress", f"--out={out}"
    )
    assert done.returncode == 255
    assert "INVALID_ARGUMENT: request 1: Name: <unknown>, Feature: x (data type: float) is required" in done.stderr


def test_files_are_shown(tmp_path: Path) -> None:
    version = copied(tmp_path, "counter")
    classify = over_examples(classification_pb2.ClassificationRequest(), example(x=1.0))
    two = {"a": [1.0], "b": tensor([["x", "y"]], tf.string)}
    path = write(version, [adding(1), log(classify=classify), log(predict=predict_request("", two)), log()])
    for place in (path, version, version.parent):
        done = run_to_end("servable", "warmup", "show", str(place))
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines() == [
            "    1  predict   add              by           int64   [1]",
            "    2  classify  serving_default  examples: 1",
            "    3  predict   serving_default  a            float   [1]",
            "                                  b            string  [1, 2]",
            "    4  none",
        ]
    shown = json.loads(run_to_end("servable", "warmup", "show", "--json", str(path)).stdout)
    assert shown[1] == {"kind": "classify", "signature": "serving_default", "examples": 1}
    done = run_to_end("servable", "warmup", "show", str(HALF_PLUS_TWO))
    assert (done.returncode, done.stderr.partition(":")[0]) == (255, "NOT_FOUND")
    write(version, [b"\xff"])
    done = run_to_end("servable", "warmup", "show", str(path))
    assert (done.returncode, "record 1 of" in done.stderr) == (255, True)


def test_requests_are_recorded_through_the_admin_port(tmp_path: Path) -> None:
    out = tmp_path / "records"
    (port,) = free_ports(1)
    flags = [f"--admin_port={port}"]
    command = ("servable", "warmup", "record", f"--server=127.0.0.1:{port}", f"--out={out}", "--force")
    with serving([Model("m", MODELS / "multi")], tmp_path, *flags) as server, Grpc(server.grpc_address) as client:
        with ThreadPoolExecutor(1) as threads:
            recording = threads.submit(run_to_end, *command, "--model=m", "--count=3")
            while not recording.done():
                client.predict(predict_request("m", {"x": 1.0}))
            done = recording.result()
        unknown = run_to_end(*command, "--model=n")
        nothing = run_to_end(*command, "--model=m", "--seconds=0.1")
    assert (done.returncode, done.stdout) == (0, f"Wrote {out}, requests: 3\n"), done.stderr
    assert [float(array(one.predict_log.request.inputs["x"])) for one in read(out)] == [1.0] * 3
    assert unknown.returncode == 255
    assert "NOT_FOUND: Model n is not configured" in unknown.stderr
    assert nothing.returncode == 255
    assert "nobody asked m anything within 0.1 s" in nothing.stderr
    gone = run_to_end(*command, "--model=m")
    assert gone.returncode == 255
    assert "UNAVAILABLE: no answer from the admin port at 127.0.0.1:" in gone.stderr
