"""The pages of metrics, as Prometheus and its tools see them; and the access log."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from .grpc_client import Grpc, predict_request
from .rest_client import Rest
from .server import (
    HALF_PLUS_TWO,
    MODELS,
    Model,
    ServerProcess,
    config_text,
    free_ports,
    run_to_end,
    serving,
    wait_until,
)

LINES_S = 15.0
ORIGINAL = "/monitoring/prometheus/metrics"
INSTALL = "install Debian's package prometheus"


def page(server: ServerProcess, path: str) -> str:
    request = urllib.request.Request(f"http://127.0.0.1:{server.rest_port}{path}", headers={"Accept": "text/plain"})
    with urllib.request.urlopen(request) as answer:
        text: str = answer.read().decode()
    return text


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One that has answered requests of all kinds, well and badly."""
    folder = tmp_path_factory.mktemp("metrics")
    models = [Model("half", MODELS / "half"), Model("ex", MODELS / "ex")]
    with serving(models, folder, f"--access_log={folder}/access.log") as server, Rest(server.rest_port) as rest:
        for _ in range(3):
            assert rest.predict("half", {"instances": [1.0]}).status == 200
        assert rest.predict("half", {"instances": ["a"]}).status == 400
        assert rest.predict("nope", {"instances": [1.0]}).status == 404
        assert rest.get("/v1/models/half/metadata").status == 200
        with Grpc(server.grpc_address) as client:
            client.predict(predict_request("half", {"x": [1.0]}))
        yield server


def test_both_pages_are_there_without_being_asked_for(server: ServerProcess) -> None:
    original, own = page(server, ORIGINAL), page(server, "/metrics")
    for line in [
        ':tensorflow:serving:request_count{model_name="half",status="OK"} 5',
        ':tensorflow:serving:request_count{model_name="half",status="INVALID_ARGUMENT"} 1',
        ':tensorflow:serving:request_count{model_name="nope",status="NOT_FOUND"} 1',
        ':tensorflow:serving:request_latency_count{model_name="half",API="predict",entrypoint="REST"} 3',
        ':tensorflow:serving:request_latency_count{model_name="half",API="Predict",entrypoint="GRPC"} 1',
        ':tensorflow:serving:runtime_latency_count{model_name="half",API="Predict",runtime="TF1"} 4',
    ]:
        assert line in original.splitlines(), original
    for name in ["request_example_counts histogram", "request_example_count_total counter"]:
        assert f"# TYPE :tensorflow:serving:{name}" in original.splitlines()
    labels = 'model="half",version="7",signature="serving_default",api="Predict",entrypoint="REST"'
    for line in [
        f'servable_requests_total{{{labels},code="OK"}} 3',
        f'servable_requests_total{{{labels},code="INVALID_ARGUMENT"}} 1',
        f"servable_request_duration_seconds_count{{{labels}}} 3",
        f'servable_request_stage_seconds_count{{{labels},stage="run"}} 3',
        f'servable_request_stage_seconds_count{{{labels},stage="encode"}} 3',
        'servable_version_state{model="ex",version="1",state="AVAILABLE"} 1',
        'servable_other_requests_total{model="nope",code="NOT_FOUND"} 1',
    ]:
        assert line in own.splitlines(), own
    memory = [line for line in own.splitlines() if line.startswith('servable_version_memory_bytes{model="half"')]
    assert len(memory) == 1
    assert int(memory[0].split()[-1]) > 0


def test_a_file_switches_metrics_off_or_moves_them(tmp_path: Path) -> None:
    for text, status in [("prometheus_config { enable: false }", 404), ("prometheus_config { enable: true }", 200)]:
        (tmp_path / "monitoring").write_text(text)
        flag = f"--monitoring_config_file={tmp_path}/monitoring"
        with serving([Model("half", MODELS / "half")], tmp_path, flag) as server, Rest(server.rest_port) as rest:
            assert (rest.get(ORIGINAL).status, rest.get("/metrics").status) == (status, status)


@pytest.mark.skipif(shutil.which("promtool") is None, reason=f"promtool is not here: {INSTALL}")
def test_promtool_finds_nothing_wrong(server: ServerProcess) -> None:
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=page(server, "/metrics"), capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("prometheus") is None, reason=f"prometheus is not here: {INSTALL}")
@pytest.mark.parametrize(
    ("path", "query"),
    [
        (ORIGINAL, ':tensorflow:serving:request_count{model_name="half",status="OK"}'),
        ("/metrics", 'servable_requests_total{model="half",entrypoint="GRPC",code="OK"}'),
    ],
)
def test_prometheus_scrapes(server: ServerProcess, path: str, query: str, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    config = {
        "scrape_configs": [
            {
                "job_name": "servable",
                "scrape_interval": "1s",
                "metrics_path": path,
                "static_configs": [{"targets": [f"127.0.0.1:{server.rest_port}"]}],
            }
        ]
    }
    (tmp_path / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    command = [
        "prometheus",
        f"--config.file={tmp_path}/prometheus.yml",
        f"--storage.tsdb.path={tmp_path}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]

    def results() -> list[object]:
        target = f"http://127.0.0.1:{port}/api/v1/query?query={urllib.parse.quote(query)}"
        try:
            with urllib.request.urlopen(target) as answer:
                found: list[object] = json.load(answer)["data"]["result"]
        except OSError:
            return []
        return found

    with (tmp_path / "log").open("wb") as log:
        prometheus = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            wait_until(lambda: bool(results()), f"prometheus has {query}")
        finally:
            prometheus.terminate()
            prometheus.wait()


def test_each_request_has_a_line(server: ServerProcess) -> None:
    path = server.folder / "access.log"
    wait_until(lambda: len(path.read_text().splitlines()) >= 7, "lines are written", LINES_S)
    lines = [dict(part.partition("=")[::2] for part in line.split(" ")) for line in path.read_text().splitlines()]
    first = lines[0]
    wanted = {"entrypoint": "REST", "method": "POST", "model": "half", "version": "7", "code": "OK", "status": "200"}
    assert first.items() >= wanted.items()
    assert first["signature"] == "serving_default"
    assert int(first["took_us"]) >= int(first["run_us"])
    refused = next(line for line in lines if line["model"] == "nope")
    assert (refused["code"], refused["status"]) == ("NOT_FOUND", "404")
    call = next(line for line in lines if line["entrypoint"] == "GRPC")
    assert (call["target"], call["remote"]) == ("/tensorflow.serving.PredictionService/Predict", "127.0.0.1")


def test_an_access_log_that_cannot_be_written_is_an_error_at_the_start() -> None:
    flags = (
        f"--model_base_path={MODELS / 'half'}",
        "--access_log=/no/such/folder/log",
        "--port=0",
        "--rest_api_port=0",
    )
    ended = run_to_end("tensorflow_model_server", *flags, "--grpc_socket_path=/tmp/never-opened.sock")
    assert ended.returncode == 255
    assert "the access log /no/such/folder/log cannot be written" in ended.stdout


DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana" / "servable.json"


def test_the_dashboard_asks_for_metrics_that_there_are(server: ServerProcess) -> None:
    own = page(server, "/metrics")
    known = set(re.findall(r"^# TYPE (\S+) ", own, re.MULTILINE))
    asked = [
        target["expr"] for panel in json.loads(DASHBOARD.read_text())["panels"] for target in panel.get("targets", [])
    ]
    assert asked
    for name in re.findall(r"\b(?:servable|process)_\w+", " ".join(asked)):
        assert name in known or re.sub("_(bucket|sum|count)$", "", name) in known, name


def test_lines_are_json_if_the_log_is(tmp_path: Path) -> None:
    flags = (f"--access_log={tmp_path}/access.log", "--log_format=json")
    with serving([Model("half", MODELS / "half")], tmp_path, *flags) as server, Rest(server.rest_port) as rest:
        assert rest.predict("half", {"instances": [1.0]}).status == 200
    # The server has ended: what waited is written.
    (line,) = (tmp_path / "access.log").read_text().splitlines()
    told = json.loads(line)
    assert (told["model"], told["version"], told["status"]) == ("half", "7", 200)


def test_a_reload_tells_by_how_much_metrics_have_grown(tmp_path: Path) -> None:
    from google.protobuf import text_format
    from tensorflow_serving.apis import model_management_pb2
    from tensorflow_serving.config import model_server_config_pb2

    warm = [Model("half_plus_two", HALF_PLUS_TWO), Model("warm", MODELS / "warm")]
    with serving(warm[:1], tmp_path) as server, Grpc(server.grpc_address) as client:
        client.predict(predict_request("half_plus_two", {"x": 1.0}))
        records, requests = "/tensorflow/serving/model_warmup_records_read", "/tensorflow/serving/request_count"
        request = model_management_pb2.ReloadConfigRequest(
            config=text_format.Parse(config_text(warm), model_server_config_pb2.ModelServerConfig()),
            metric_names=[records, requests, "nope", records],
        )
        answer = client.model.HandleReloadConfigRequest(request, timeout=60)
        metrics = [(metric.name, metric.int64_value_increase) for metric in answer.metric]
        assert sorted(metrics) == sorted([(records, 2), (requests, 0), ("nope", 0)])
        again = client.model.HandleReloadConfigRequest(request, timeout=60)
        assert {metric.int64_value_increase for metric in again.metric} == {0}
