"""SessionService.SessionRun: any part of a graph, by names; only where it is switched on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc as grpcio
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import session_service_pb2

from tests.e2e.grpc_client import TIMEOUT_S, Grpc, array, code_of, details_of, tensor
from tests.e2e.server import MODELS, Model, ServerProcess, serving


class Session:
    """A stub of the service: the client package has its messages only."""

    def __init__(self, client: Grpc) -> None:
        self.call: Any = client.channel.unary_unary(
            "/tensorflow.serving.SessionService/SessionRun",
            request_serializer=session_service_pb2.SessionRunRequest.SerializeToString,
            response_deserializer=session_service_pb2.SessionRunResponse.FromString,
        )

    def run(
        self, model: str, feed: Mapping[str, Any], fetch: Sequence[str], target: Sequence[str] = (), **fields: Any
    ) -> dict[str, Any]:
        return {named.name: array(named.tensor) for named in self.answer(model, feed, fetch, target, **fields).tensor}

    def answer(
        self, model: str, feed: Mapping[str, Any], fetch: Sequence[str], target: Sequence[str] = (), **fields: Any
    ) -> Any:
        request = session_service_pb2.SessionRunRequest(fetch=fetch, target=target, **fields)
        request.model_spec.name = model
        for name, value in feed.items():
            request.feed.add(name=name).tensor.CopyFrom(value if isinstance(value, type(tensor(0))) else tensor(value))
        return self.call(request, timeout=TIMEOUT_S)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    models = [Model(name, MODELS / name) for name in ("tf1", "lookup", "slow", "half")]
    folder = tmp_path_factory.mktemp("session")
    with serving(models, folder, "--enable_session_service") as server, Grpc(server.grpc_address) as client:
        yield Session(client)


def refused(session: Session, *arguments: Any, **fields: Any) -> tuple[str, str]:
    with pytest.raises(grpcio.RpcError) as caught:
        session.answer(*arguments, **fields)
    return code_of(caught.value), details_of(caught.value)


def test_it_is_off_by_default(grpc: Grpc, server: ServerProcess) -> None:
    code, text = refused(Session(grpc), "tf1", {"x:0": [1.0]}, ["mul:0"])
    assert code == "UNIMPLEMENTED"
    assert "SessionRun" in text


def test_tensors_have_their_names_in_the_graph(session: Session) -> None:
    (weight,) = session.run("tf1", {}, ["mul/ReadVariableOp:0"]).values()
    answer = session.run("tf1", {"x:0": [1.0, 2.0, 3.0]}, ["mul:0", "mul/ReadVariableOp"])
    assert list(answer) == ["mul:0", "mul/ReadVariableOp"], "as they were asked for"
    np.testing.assert_array_equal(answer["mul:0"], np.array([1, 2, 3], np.float32) * weight)


def test_what_lies_between_can_be_fed(session: Session) -> None:
    answer = session.run("tf1", {"x:0": [1.0, 2.0], "mul/ReadVariableOp:0": 10.0}, ["mul:0"])
    np.testing.assert_array_equal(answer["mul:0"], [10, 20])


def test_targets_are_run_for_what_they_do(session: Session) -> None:
    (before,) = session.run("tf1", {}, ["mul/ReadVariableOp:0"]).values()
    assert session.run("tf1", {"w/Initializer/initial_value:0": before + 1}, [], ["w/Assign"]) == {}
    (after,) = session.run("tf1", {}, ["mul/ReadVariableOp:0"]).values()
    assert after == before + 1
    session.run("tf1", {"w/Initializer/initial_value:0": before}, [], ["w/Assign"])


def test_names_may_be_those_of_a_signature(session: Session) -> None:
    answer = session.answer("half", {"x": [2.0]}, ["y"], tensor_name_is_alias=True)
    assert (answer.model_spec.name, answer.model_spec.version.value) == ("half", 7)
    assert answer.model_spec.signature_name == "serving_default"
    assert [(named.name, list(named.tensor.float_val)) for named in answer.tensor] == [("y", [3.0])]


def test_strings_pass(session: Session) -> None:
    feed = {"to_word_number:0": tensor([1], tf.int64)}
    (word,) = session.run("lookup", feed, ["StatefulPartitionedCall_1:0"])["StatefulPartitionedCall_1:0"]
    feed = {"serving_default_word:0": tensor([word], tf.string)}
    assert list(session.run("lookup", feed, ["StatefulPartitionedCall:0"])["StatefulPartitionedCall:0"]) == [1]


@pytest.mark.parametrize(
    ("feed", "fetch", "target", "fields", "code", "text"),
    [
        ({}, ["nothing:0"], [], {}, "INVALID_ARGUMENT", "Tensor nothing:0"),
        ({}, ["mul:7"], [], {}, "OUT_OF_RANGE", "does not have output 7"),
        ({}, ["mul:x"], [], {}, "INVALID_ARGUMENT", "Tensor mul:x"),
        ({}, ["a\0b:0"], [], {}, "INVALID_ARGUMENT", "NUL"),
        ({"nothing:0": [1.0]}, ["mul:0"], [], {}, "INVALID_ARGUMENT", "Tensor nothing:0"),
        ({}, ["mul:0"], [], {}, "INVALID_ARGUMENT", "feed"),
        ({"x:0": tensor(["text"], tf.string)}, ["mul:0"], [], {}, "INVALID_ARGUMENT", "to be float"),
        ({"x:0": [1.0]}, ["x:0"], [], {}, "INVALID_ARGUMENT", "both fed and fetched"),
        ({}, [], ["nothing"], {}, "NOT_FOUND", "no operation nothing"),
        ({}, [], [], {}, "INVALID_ARGUMENT", "at least one target"),
        ({"x": [1.0]}, ["z"], [], {"tensor_name_is_alias": True}, "INVALID_ARGUMENT", "these are: y"),
        ({"q": [1.0]}, ["y"], [], {"tensor_name_is_alias": True}, "INVALID_ARGUMENT", "these are: x"),
    ],
)
def test_mistakes_are_named(
    session: Session,
    feed: dict[str, Any],
    fetch: list[str],
    target: list[str],
    fields: dict[str, Any],
    code: str,
    text: str,
) -> None:
    got, details = refused(session, "tf1", feed, fetch, target, **fields)
    assert (got, text in details) == (code, True), details


def test_the_model_has_to_be_there(session: Session) -> None:
    assert refused(session, "nobody", {}, ["x:0"]) == ("NOT_FOUND", "Servable not found for request: Latest(nobody)")


def test_the_deadline_holds(session: Session) -> None:
    request = session_service_pb2.SessionRunRequest(fetch=["y"], tensor_name_is_alias=True)
    request.model_spec.name = "slow"
    request.feed.add(name="x").tensor.CopyFrom(tensor([1.0]))
    with pytest.raises(grpcio.RpcError) as caught:
        session.call(request, timeout=0.05)
    assert code_of(caught.value) == "DEADLINE_EXCEEDED"


def test_graphs_whose_signatures_are_used_are_not_disturbed(session: Session, tmp_path: Path) -> None:
    for _ in range(20):
        refused(session, "half", {"serving_default_x:0": tensor([1], tf.int32)}, ["PartitionedCall_1:0"])
    answer = session.answer("half", {"x": [2.0]}, ["y"], tensor_name_is_alias=True)
    assert list(answer.tensor[0].tensor.float_val) == [3.0]
