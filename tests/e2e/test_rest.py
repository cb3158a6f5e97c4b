"""Plain HTTP against the REST port: what people type, what their proxies do, and what goes wrong."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.rest_client import Answer, Rest
from tests.e2e.server import HALF_PLUS_TWO, MODELS, Model, ServerProcess, serving


@pytest.mark.parametrize(
    ("model", "body", "answer"),
    [
        ("half_plus_two", {"instances": [1.0, 2.0, 5.0]}, {"predictions": [2.5, 3.0, 4.5]}),
        ("half_plus_two", {"inputs": [1.0, 2.0, 5.0]}, {"outputs": [2.5, 3.0, 4.5]}),
        ("half", {"instances": [{"x": 1}, {"x": 2}]}, {"predictions": [2.5, 3.0]}),
        ("half", {"instances": [[1, 2], [3, 4]]}, {"predictions": [[2.5, 3.0], [3.5, 4.0]]}),
        ("half", {"inputs": 3}, {"outputs": 3.5}),
        ("half", {"signature_name": "other", "instances": [1]}, {"predictions": [101.0]}),
        (
            "pair",
            {"instances": [{"a": 3, "b": 1}, {"a": 5, "b": 2}]},
            {"predictions": [{"sum": 4.0, "diff": 2.0}, {"sum": 7.0, "diff": 3.0}]},
        ),
        ("pair", {"inputs": {"a": [3, 5], "b": [1, 2]}}, {"outputs": {"sum": [4.0, 7.0], "diff": [2.0, 3.0]}}),
        ("total", {"inputs": [1, 2]}, {"outputs": 3.0}),
        ("keras", {"instances": [[0, 0]]}, {"predictions": [[pytest.approx(1 / 3)] * 3]}),
        ("lookup", {"instances": ["two", "ten"]}, {"predictions": [2, -1]}),
        ("echo", {"signature_name": "string", "inputs": ["ü", {"b64": "aGk="}]}, {"outputs": ["ü", "hi"]}),
        ("echo", {"signature_name": "bytes", "instances": [{"b64": "/w=="}]}, {"predictions": [{"b64": "/w=="}]}),
        ("echo", {"signature_name": "int64", "inputs": [2**63 - 1, -(2**63)]}, {"outputs": [2**63 - 1, -(2**63)]}),
        ("echo", {"signature_name": "bool", "inputs": [[True], [False]]}, {"outputs": [[True], [False]]}),
        ("multi", {"instances": [0]}, {"predictions": [3.0]}),
        ("multi/versions/2", {"instances": [0]}, {"predictions": [2.0]}),
        ("multi/labels/stable", {"instances": [0]}, {"predictions": [1.0]}),
        ("multi/labels/a%3Ab%20c", {"instances": [0]}, {"predictions": [2.0]}),
        ("a%2Fb", {"instances": [0]}, {"predictions": [2.0]}),
    ],
)
def test_predict(rest: Rest, model: str, body: Any, answer: Any) -> None:
    came = rest.predict(model, body)
    assert (came.status, came.json) == (200, answer)
    assert came.headers["content-type"] == "application/json"


def test_non_finite_numbers_are_bare_words(rest: Rest) -> None:
    answer = rest.predict("half", '{"inputs": [NaN, Infinity, -Infinity]}')
    assert b"".join(answer.body.split()) == b'{"outputs":[NaN,Infinity,-Infinity]}'


def test_status_and_metadata(rest: Rest) -> None:
    available = {"state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    versions = [{"version": version} | available for version in ("3", "2", "1")]
    assert rest.get("/v1/models/multi").json == {"model_version_status": versions}
    assert rest.get("/v1/models/multi/versions/2").json == {"model_version_status": [versions[1]]}
    described = rest.get("/v1/models/multi/labels/stable/metadata").json
    assert described["model_spec"] == {"name": "multi", "signature_name": "", "version": "1"}
    signature = described["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["inputs"]["x"]["dtype"] == "DT_FLOAT"
    assert signature["method_name"] == "tensorflow/serving/predict"


@pytest.mark.parametrize(
    ("method", "path", "status", "error"),
    [
        ("GET", "/v1/models", 400, "Missing model name in request."),
        ("GET", "/v1/models/nope", 404, "Could not find any versions of model nope"),
        ("GET", "/v1/models/multi/versions/9", 404, "Could not find version 9 of model multi"),
        ("GET", "/v1/models/multi/versions/9/metadata", 404, "Servable not found for request: Specific(multi, 9)"),
        ("GET", "/v1/models/half:predict", 400, "Malformed request: GET /v1/models/half:predict"),
        ("POST", "/v1/models/half:PREDICT", 400, "Malformed request: POST /v1/models/half:PREDICT"),
        ("PUT", "/v1/models/half", 400, "Malformed request: PUT /v1/models/half"),
        ("POST", "/v1/models/nope:predict", 404, "Servable not found for request: Latest(nope)"),
        ("POST", "/v1/models/multi/labels/x:predict", 400, "Unrecognized servable version label: x"),
    ],
)
def test_targets_that_lead_nowhere(rest: Rest, method: str, path: str, status: int, error: str) -> None:
    answer = rest.send(method, path, {"instances": [1]} if method == "POST" else None)
    assert (answer.status, answer.error) == (status, error)


@pytest.mark.parametrize("path", ["/", "/v1", "/v2/models/half", "/metric"])
def test_what_is_no_api_is_a_page(rest: Rest, path: str) -> None:
    answer = rest.get(path)
    assert answer.status == 404
    assert answer.headers["content-type"] == "text/html"


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("", "JSON Parse error: The document is empty"),
        ("   ", "JSON Parse error: The document is empty. at offset: 3"),
        ("instances = [1]", "JSON Parse error: Invalid value. at offset: 0"),
        ('{"instances": [1,]}', "JSON Parse error: Invalid value. at offset: 17"),
        ('{"instances": [1]', "JSON Parse error: Missing a comma or '}' after an object member. at offset: 17"),
        ("[1, 2]", "JSON Value: [1, 2] Is not object"),
        ("{}", "Missing 'inputs' or 'instances' key"),
        ('{"instances": ["x"]}', 'JSON Value: "x" Type: String is not of expected type: float'),
        ('{"inputs": [null]}', "JSON Value: null Type: Null is not of expected type: float"),
        ('{"inputs": [true]}', "JSON Value: true Type: True is not of expected type: float"),
        ('{"instances": [[1, 2], [3]]}', "Expecting tensor size: 2 but got: 1"),
        ('{"signature_name": "nope", "inputs": 1}', 'Serving signature name: "nope" not found in signature def'),
    ],
)
def test_bodies_that_are_wrong_are_answered_with_the_reason(rest: Rest, body: str, error: str) -> None:
    answer = rest.predict("half", body)
    assert answer.status == 400
    assert error in answer.error


@pytest.mark.parametrize(
    ("signature", "value"), [("int32", 1.5), ("int32", 2**31), ("uint8", -(2**40)), ("bool", 1), ("string", 5)]
)
def test_values_of_another_type_are_refused(rest: Rest, signature: str, value: Any) -> None:
    answer = rest.predict("echo", {"signature_name": signature, "inputs": [value]})
    assert answer.status == 400
    assert f"is not of expected type: {signature}" in answer.error


def test_errors_of_the_model_come_through(rest: Rest) -> None:
    answer = rest.predict("fail", {"signature_name": "check", "inputs": [-1]})
    assert answer.status == 400
    assert "x must not be negative" in answer.error
    assert rest.predict("fail", {"signature_name": "check", "inputs": [4]}).json == {"outputs": [2.0]}


def test_deep_nesting_is_an_error_and_no_crash(rest: Rest) -> None:
    levels = 400_000
    deep = "[" * levels + "]" * levels
    assert rest.predict("half", f'{{"instances": {deep}}}').status == 400
    assert rest.predict("half", f'{{"inputs": {deep}}}').status == 400
    assert rest.predict("half", f'{{"unused": {deep}, "inputs": 1}}').json == {"outputs": 2.5}
    too_deep = "[" * 1_100_000 + "]" * 1_100_000
    answer = rest.predict("half", f'{{"unused": {too_deep}, "inputs": 1}}')
    assert answer.status == 400
    assert "max_json_depth" in answer.error


def test_bodies_may_be_gzipped(rest: Rest) -> None:
    def send(body: bytes) -> Answer:
        return rest.send("POST", "/v1/models/half:predict", body, {"Content-Encoding": "gzip"})

    plain = json.dumps({"instances": list(range(10_000))}).encode()
    answer = send(gzip.compress(plain))
    assert answer.json["predictions"][-1] == 9999 / 2 + 2
    assert answer.headers["content-encoding"] is None
    for broken in (plain, gzip.compress(plain)[:-1], b""):
        answer = send(broken)
        assert (answer.status, answer.error) == (400, "JSON Parse error: The document is empty")


def test_bodies_may_come_in_chunks(rest: Rest) -> None:
    chunks = [b'{"instan', b'ces": [1', b", 2]}"]
    rest.connection.request("POST", "/v1/models/half:predict", iter(chunks), encode_chunked=True)
    assert json.loads(rest.connection.getresponse().read()) == {"predictions": [2.5, 3.0]}


def test_a_large_body_and_a_large_answer(rest: Rest) -> None:
    numbers = list(range(500_000))
    answer = rest.predict("half", {"inputs": numbers})
    assert answer.json["outputs"] == [number / 2 + 2 for number in numbers]


def test_a_connection_is_kept(rest: Rest) -> None:
    rest.get("/v1/models/half")
    first = rest.connection.sock
    for _ in range(10):
        assert rest.predict("half", {"inputs": 1}).status == 200
        assert rest.predict("half", "nonsense").status == 400
    assert rest.connection.sock is first
    answer = rest.get("/v1/models/half", Connection="close")
    assert answer.headers["connection"] == "close"


def request_text(value: int, *headers: str) -> bytes:
    body = json.dumps({"inputs": value})
    lines = ["POST /v1/models/half:predict HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers, "", body]
    return "\r\n".join(lines).encode()


def test_pipelined_requests_are_answered_in_order(server: ServerProcess) -> None:
    with socket.create_connection(("127.0.0.1", server.rest_port), timeout=60) as connection:
        last = request_text(9, "Connection: close")
        connection.sendall(b"".join(request_text(value) for value in range(9)) + last)
        with connection.makefile("rb") as file:
            received = file.read()
    bodies = [part.partition(b"\r\n\r\n")[2] for part in received.split(b"HTTP/1.1 200 OK")[1:]]
    assert [json.loads(body)["outputs"] for body in bodies] == [value / 2 + 2 for value in range(10)]


def test_http_1_0_and_half_closed_clients_are_answered(server: ServerProcess) -> None:
    with socket.create_connection(("127.0.0.1", server.rest_port), timeout=60) as connection:
        connection.sendall(b"GET /v1/models/half HTTP/1.0\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as file:
            received = file.read()
    assert received.startswith(b"HTTP/1.0 200 OK\r\n")
    assert b'"AVAILABLE"' in received


def test_a_request_may_have_hundreds_of_headers(server: ServerProcess) -> None:
    head = request_text(3, *(f"X-{number}: a" for number in range(480)), "Connection: close")
    with socket.create_connection(("127.0.0.1", server.rest_port), timeout=60) as connection:
        for start in range(0, len(head), 1000):
            connection.sendall(head[start : start + 1000])
        with connection.makefile("rb") as file:
            received = file.read()
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("garbage", [b"\x16\x03\x01\x02\x00", b"nonsense\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"])
def test_garbage_costs_its_connection_and_no_more(server: ServerProcess, rest: Rest, garbage: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.rest_port), timeout=60) as connection:
        connection.sendall(garbage)
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as file:
            assert not file.read().startswith(b"HTTP/1.1 200")
    assert rest.get("/livez").status == 200


def test_a_client_that_leaves_costs_nothing(server: ServerProcess, rest: Rest) -> None:
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", server.rest_port), timeout=60) as connection:
            connection.sendall(request_text(1)[:-3])
    assert rest.predict("half", {"inputs": 1}).status == 200


def test_probes(rest: Rest) -> None:
    assert (rest.get("/livez").status, rest.get("/readyz").status) == (200, 200)


def test_options_are_for_known_origins(rest: Rest) -> None:
    path = "/v1/models/half:predict"
    answer = rest.send("OPTIONS", path, headers={"Origin": "https://x.test"})
    assert (answer.status, answer.body) == (200, b"")
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]
    assert rest.send("OPTIONS", path).status == 400


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with CORS, low limits and little patience."""
    flags = [
        "--rest_api_enable_cors_support",
        "--rest_api_timeout_in_ms=300",
        "--max_body_bytes=2000",
        "--max_decompressed_bytes=5000",
        "--max_json_depth=20",
        "--max_output_bytes=4000",
        "--max_tensor_elements=900",
    ]
    models = [Model(name, MODELS / name) for name in ("half", "slow", "big")]
    with serving(models, tmp_path_factory.mktemp("strict"), *flags) as server:
        yield server


@pytest.fixture
def strict_rest(strict: ServerProcess) -> Iterator[Rest]:
    with Rest(strict.rest_port) as client:
        yield client


def test_cors_headers_are_on_every_answer(strict_rest: Rest) -> None:
    answers = [
        strict_rest.predict("half", {"inputs": 1}),
        strict_rest.get("/v1/models/nope"),
        strict_rest.send("OPTIONS", "/v1/models/half:predict", headers={"Origin": "http://x"}),
    ]
    assert [answer.status for answer in answers] == [200, 404, 200]
    for answer in answers:
        assert answer.headers["access-control-allow-origin"] == "*"
        assert answer.headers["access-control-allow-methods"] == "POST, GET"
        assert answer.headers["access-control-allow-headers"] == "Content-Type"


@pytest.mark.parametrize(
    ("model", "body", "status", "option"),
    [
        ("half", json.dumps({"inputs": "x" * 3000}), http.client.TOO_MANY_REQUESTS, "max_body_bytes"),
        ("half", '{"unused": ' + "[" * 30 + "]" * 30 + ', "inputs": 1}', http.client.BAD_REQUEST, "max_json_depth"),
        ("big", '{"inputs": 1001}', http.client.TOO_MANY_REQUESTS, "max_output_bytes"),
        ("half", '{"inputs": [' + ",".join(["1"] * 950) + "]}", http.client.TOO_MANY_REQUESTS, "max_tensor_elements"),
    ],
    ids=["body", "depth", "output", "elements"],
)
def test_limits_name_the_option_to_raise(
    strict: ServerProcess, model: str, body: str, status: int, option: str
) -> None:
    with Rest(strict.rest_port) as client:
        answer = client.predict(model, body)
    assert answer.status == status
    assert option in answer.error


def test_a_body_without_length_is_refused_once_it_is_too_large(strict: ServerProcess) -> None:
    with Rest(strict.rest_port) as client:
        chunks = iter([b"[" * 1000] * 3)
        client.connection.request("POST", "/v1/models/half:predict", chunks, encode_chunked=True)
        response = client.connection.getresponse()
        assert response.status == http.client.TOO_MANY_REQUESTS
        assert "max_body_bytes" in json.loads(response.read())["error"]


def test_a_gzip_bomb_is_not_unpacked(strict_rest: Rest) -> None:
    bomb = gzip.compress(b'{"inputs": 1' + b" " * 1_000_000 + b"}")
    assert len(bomb) < 2000
    answer = strict_rest.send("POST", "/v1/models/half:predict", bomb, {"Content-Encoding": "gzip"})
    assert answer.status == 400


def test_a_run_that_takes_too_long_is_a_timeout(strict_rest: Rest) -> None:
    answer = strict_rest.predict("slow", {"inputs": [1.0]})
    assert (answer.status, answer.error) == (504, "Timed out waiting for notification")
    assert strict_rest.predict("half", {"inputs": 1}).status == 200


def test_metrics_are_where_the_configuration_says(tmp_path: Path) -> None:
    monitoring = tmp_path / "monitoring.config"
    monitoring.write_text("prometheus_config { enable: true, path: '/monitoring' }")
    models = [Model("m", HALF_PLUS_TWO)]
    flags = [f"--monitoring_config_file={monitoring}"]
    with serving(models, tmp_path, *flags) as server, Rest(server.rest_port) as client:
        assert client.predict("m", {"inputs": [1]}).status == 200
        page = client.get("/monitoring")
        assert page.status == 200
        assert page.headers["content-type"].startswith("text/plain")
        counted = [line for line in page.body.decode().splitlines() if "request_count{" in line]
        assert any('model_name="m"' in line and line.endswith(" 1") for line in counted), page.body
