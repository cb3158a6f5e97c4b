"""Traces, as a collector that the tests start gets them."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator, Sequence
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

from .grpc_client import Grpc, predict_request
from .rest_client import Rest
from .server import MODELS, Model, ServerProcess, config_text, wait_until

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CONTEXT = f"00-{TRACE}-{PARENT}-01"
SOON = {"OTEL_BSP_SCHEDULE_DELAY": "50"}


class Collector:
    """Spans that have come, over either protocol."""

    def __init__(self) -> None:
        self.spans: list[trace_pb2.Span] = []
        self.services: set[str] = set()

    def take(self, request: Any) -> None:
        for resource in request.resource_spans:
            for attribute in resource.resource.attributes:
                if attribute.key == "service.name":
                    self.services.add(attribute.value.string_value)
            for scope in resource.scope_spans:
                self.spans.extend(scope.spans)

    def named(self, name: str) -> list[trace_pb2.Span]:
        return [span for span in self.spans if span.name == name]


@contextmanager
def over_http(collector: Collector, status: int = 200) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.path == "/v1/traces" and status == 200:
                collector.take(trace_service_pb2.ExportTraceServiceRequest.FromString(body))
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@contextmanager
def over_grpc(collector: Collector) -> Iterator[str]:
    def export(request: Any, context: grpc.ServicerContext) -> Any:
        collector.take(request)
        return trace_service_pb2.ExportTraceServiceResponse()

    handler = grpc.unary_unary_rpc_method_handler(
        export,
        request_deserializer=trace_service_pb2.ExportTraceServiceRequest.FromString,
        response_serializer=trace_service_pb2.ExportTraceServiceResponse.SerializeToString,
    )
    server = grpc.server(futures.ThreadPoolExecutor(2))
    service = "opentelemetry.proto.collector.trace.v1.TraceService"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Export": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"http://127.0.0.1:{port}"
    server.stop(None).wait()


@contextmanager
def traced(folder: Path, flags: Sequence[str] = (), **environment: str) -> Iterator[ServerProcess]:
    config = folder / "models.config"
    config.write_text(config_text([Model("half", MODELS / "half")]))
    with ServerProcess(
        [f"--model_config_file={config}", *flags], folder / "server.log", environment={**SOON, **environment}
    ) as server:
        yield server.wait_ready()


def attributes(span: trace_pb2.Span) -> dict[str, object]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value") or "string_value") for one in span.attributes}


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_request_is_a_span_and_its_parts(protocol: str, tmp_path: Path) -> None:
    collector = Collector()
    receiver = over_grpc(collector) if protocol == "grpc" else over_http(collector)
    log = f"--access_log={tmp_path}/access.log"
    with (
        receiver as endpoint,
        traced(tmp_path, [log], OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, OTEL_EXPORTER_OTLP_PROTOCOL=protocol) as server,
        Rest(server.rest_port) as rest,
        Grpc(server.grpc_address) as client,
    ):
        rest.send("POST", "/v1/models/half:predict", {"instances": [1.0]}, {"traceparent": CONTEXT})
        client.predict(predict_request("half", {"x": [1.0]}), metadata=[("traceparent", CONTEXT)])
        rest.predict("half", {"instances": ["a"]})
        wait_until(lambda: len(collector.named("POST /v1/models/{model}:predict")) == 2, "spans of REST have come")
        wait_until(lambda: bool(collector.named("tensorflow.serving.PredictionService/Predict")), "that of gRPC too")

    assert collector.services == {"servable"}
    (call,) = collector.named("tensorflow.serving.PredictionService/Predict")
    well, badly = collector.named("POST /v1/models/{model}:predict")
    for span in (call, well):
        assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
        assert span.kind == trace_pb2.Span.SPAN_KIND_SERVER
        parts = {part.name: part for part in collector.spans if part.parent_span_id == span.span_id}
        assert parts.keys() == {"decode", "queue", "run", "encode"}
        for part in parts.values():
            assert span.start_time_unix_nano <= part.start_time_unix_nano <= part.end_time_unix_nano
            assert part.end_time_unix_nano <= span.end_time_unix_nano
    assert (
        attributes(call).items()
        >= {
            "rpc.system": "grpc",
            "rpc.service": "tensorflow.serving.PredictionService",
            "rpc.method": "Predict",
            "rpc.grpc.status_code": 0,
            "servable.model": "half",
            "servable.version": 7,
            "servable.signature": "serving_default",
        }.items()
    )
    assert attributes(well).items() >= {"http.request.method": "POST", "http.response.status_code": 200}.items()
    assert attributes(badly)["http.response.status_code"] == 400
    assert badly.status.code == trace_pb2.Status.STATUS_CODE_ERROR
    assert (badly.parent_span_id, badly.trace_id.hex() == TRACE) == (b"", False)
    assert f"trace_id={TRACE}" in (tmp_path / "access.log").read_text()
    assert (tmp_path / "access.log").stat().st_mode & 0o137 == 0, "it is not everybody's"


def test_what_clients_choose_is_bounded(tmp_path: Path) -> None:
    collector = Collector()
    long, state = "é" * (1 << 19), f"a={'b' * 200},c={'d' * 200},e={'f' * 105}"
    headers = {"traceparent": CONTEXT, "tracestate": state}
    with (
        over_http(collector) as endpoint,
        traced(tmp_path, [f"--access_log={tmp_path}/log"], OTEL_EXPORTER_OTLP_ENDPOINT=endpoint) as server,
        Rest(server.rest_port) as rest,
        Grpc(server.grpc_address) as client,
    ):
        with pytest.raises(grpc.RpcError):
            client.predict(predict_request(long, {"x": [1.0]}), metadata=list(headers.items()))
        rest.send("GET", f"/v1/models/{'m' * 5000}", None, headers)
        rest.send("M" * 5000, "/v1/models/half", None, headers)
        rest.send("GET", "/v1/models/half", None, {**headers, "tracestate": state[:512]})
        wait_until(lambda: sum(span.parent_span_id.hex() == PARENT for span in collector.spans) == 4, "they have come")
    requests = [span for span in collector.spans if span.parent_span_id.hex() == PARENT]
    assert sorted(span.trace_state for span in requests) == ["", "", "", state[:512]]
    for span in requests:
        assert len(span.name) < 100
        for value in attributes(span).values():
            assert not isinstance(value, str) or len(value.encode()) < 1100
    assert any(attributes(span).get("servable.model") == "é" * 512 + "...TRUNCATED" for span in requests)
    assert any(attributes(span).get("http.request.method") == "_OTHER" for span in requests)
    assert max(len(line) for line in (tmp_path / "log").read_bytes().splitlines()) < 4096


def test_a_batch_is_told_of(tmp_path: Path) -> None:
    collector = Collector()
    with (
        over_http(collector) as endpoint,
        traced(tmp_path, ["--enable_batching"], OTEL_EXPORTER_OTLP_ENDPOINT=endpoint) as server,
        Rest(server.rest_port) as rest,
    ):
        assert rest.predict("half", {"instances": [1.0, 2.0]}).status == 200
        wait_until(lambda: bool(collector.named("run")), "spans have come")
    told = attributes(collector.named("run")[0])
    assert (told["servable.batch.requests"], told["servable.batch.rows"]) == (1, 2)


def test_callers_and_the_sampler_decide_what_is_traced(tmp_path: Path) -> None:
    collector = Collector()
    with (
        over_http(collector) as endpoint,
        traced(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, OTEL_TRACES_SAMPLER="parentbased_always_off") as server,
        Rest(server.rest_port) as rest,
    ):
        assert rest.predict("half", {"instances": [1.0]}).status == 200
        rest.send("POST", "/v1/models/half:predict", {"instances": [1.0]}, {"traceparent": CONTEXT})
        wait_until(lambda: bool(collector.named("run")), "spans have come")
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}


@pytest.mark.parametrize(
    ("collector", "protocol"),
    [("gone", "http/protobuf"), ("silent", "http/protobuf"), ("silent", "grpc"), ("failing", "http/protobuf")],
)
def test_a_bad_collector_costs_spans_and_nothing_else(collector: str, protocol: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, over_http(Collector(), 500) as failing:
        endpoint = {
            "gone": "http://127.0.0.1:1",
            "silent": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "failing": failing,
        }[collector]
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            "OTEL_EXPORTER_OTLP_TIMEOUT": "200",
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        }
        with traced(tmp_path, **environment) as server, Rest(server.rest_port) as rest:
            for _ in range(50):
                assert rest.predict("half", {"instances": [1.0]}).status == 200

            def has_failed() -> bool:
                page = rest.get("/metrics").body.decode()
                lines = dict(line.rsplit(" ", 1) for line in page.splitlines() if "_spans_total{" in line)
                assert lines['servable_trace_spans_total{state="made"}'] == "250"
                return int(lines['servable_trace_spans_total{state="failed"}']) > 0

            wait_until(has_failed, "failures are counted", deadline_s=5.0)  # less than the timeout that is usual


@pytest.mark.parametrize(
    ("endpoint", "protocol", "reason"),
    [
        (
            "https://collector:4318",
            "http/protobuf",
            "OTEL_EXPORTER_OTLP_ENDPOINT=https://collector:4318: a collector is",
        ),
        ("http://collector:4318", "http/json", "OTEL_EXPORTER_OTLP_PROTOCOL=http/json: it has to be one of"),
        ("http://no address", "http/protobuf", "invalid endpoint 'http://no address'"),
        ("http://no address", "grpc", "invalid endpoint 'http://no address'"),
    ],
)
def test_what_is_not_supported_costs_traces_and_nothing_else(
    endpoint: str, protocol: str, reason: str, tmp_path: Path
) -> None:
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
    with traced(tmp_path, **environment) as server, Rest(server.rest_port) as rest:
        assert rest.predict("half", {"instances": [1.0]}).status == 200
        assert b"servable_trace_spans_total" not in rest.get("/metrics").body
    (line,) = [line for line in server.log.splitlines() if reason in line]
    assert "ERROR" in line
    assert "There are no traces:" in line
