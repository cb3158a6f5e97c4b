"""Server reflection: clients that know nothing learn what they need."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pool, message_factory
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from tests.e2e.grpc_client import TIMEOUT_S, Grpc
from tests.e2e.server import MODELS, Model, serving

PREDICTION = "tensorflow.serving.PredictionService"
MODEL = "tensorflow.serving.ModelService"
PROFILER = "tensorflow.ProfilerService"


def ask(client: Grpc, protocol: str, *questions: Any) -> list[Any]:
    """The answers to questions of one stream."""
    stream: Any = client.channel.stream_stream(
        f"/grpc.reflection.{protocol}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    return list(stream(iter(questions), timeout=TIMEOUT_S))


@pytest.mark.parametrize("protocol", ["v1", "v1alpha"])
def test_services_are_listed(grpc: Grpc, protocol: str) -> None:
    (answer,) = ask(grpc, protocol, reflection_pb2.ServerReflectionRequest(list_services=""))
    services = {service.name for service in answer.list_services_response.service}
    assert services == {PREDICTION, MODEL, PROFILER, f"grpc.reflection.{protocol}.ServerReflection"}


def test_optional_services_are_listed_when_they_are_on(tmp_path: Path) -> None:
    flags = ["--enable_session_service", "--enable_grpc_healthcheck_service"]
    with serving([Model("half", MODELS / "half")], tmp_path, *flags) as server, Grpc(server.grpc_address) as client:
        (answer,) = ask(client, "v1", reflection_pb2.ServerReflectionRequest(list_services=""))
        services = {service.name for service in answer.list_services_response.service}
        assert {"tensorflow.serving.SessionService", "grpc.health.v1.Health"} < services


def test_a_generic_client_can_predict(grpc: Grpc) -> None:
    pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(grpc.channel))
    methods = pool.FindServiceByName(PREDICTION).methods_by_name
    assert set(methods) == {"Predict", "Classify", "Regress", "MultiInference", "GetModelMetadata"}
    predict = methods["Predict"]
    request_type = message_factory.GetMessageClass(predict.input_type)
    response_type = message_factory.GetMessageClass(predict.output_type)
    request: Any = request_type()
    request.model_spec.name = "half"
    request.inputs["x"].dtype = 1
    request.inputs["x"].tensor_shape.dim.add().size = 1
    request.inputs["x"].float_val.append(3)
    call: Any = grpc.channel.unary_unary(
        f"/{PREDICTION}/Predict",
        request_serializer=request_type.SerializeToString,
        response_deserializer=response_type.FromString,
    )
    assert list(call(request, timeout=TIMEOUT_S).outputs["y"].float_val) == [3.5]


def test_what_is_not_there_is_an_error(grpc: Grpc) -> None:
    question = reflection_pb2.ServerReflectionRequest(file_containing_symbol="no.such.Thing")
    with pytest.raises(Exception, match=r"no\.such\.Thing") as caught:
        ask(grpc, "v1", question)
    assert "NOT_FOUND" in str(caught.value)


def test_an_open_stream_does_not_hold_up_the_drain(tmp_path: Path) -> None:
    over = threading.Event()

    def questions() -> Iterator[Any]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")
        over.wait(TIMEOUT_S)

    with serving([Model("half", MODELS / "half")], tmp_path) as server, Grpc(server.grpc_address) as client:
        stream: Any = client.channel.stream_stream(
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        answers = stream(questions(), timeout=TIMEOUT_S)
        assert next(answers).list_services_response.service
        server.stop()
        over.set()
