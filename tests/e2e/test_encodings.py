"""Compressed messages both ways, and strict JSON: what clients may ask for, and operators switch on."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Iterator
from typing import Any

import grpc as grpcio
import numpy as np
import pytest

from tests.e2e.grpc_client import Grpc, array, code_of, details_of, predict_request
from tests.e2e.rest_client import Answer, Rest
from tests.e2e.server import MODELS, Model, ServerProcess, serving

STRICT_AND_SMALL = ("--rest_api_strict_json", "--enable_response_compression", "--max_message_bytes=1000000")


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    models = [Model(name, MODELS / name) for name in ("half", "echo", "ex", "pair")]
    with serving(models, tmp_path_factory.mktemp("strict"), *STRICT_AND_SMALL) as server:
        yield server


@pytest.fixture
def strict_rest(strict: ServerProcess) -> Iterator[Rest]:
    with Rest(strict.rest_port) as client:
        yield client


@pytest.fixture(scope="module")
def strict_grpc(strict: ServerProcess) -> Iterator[Grpc]:
    with Grpc(strict.grpc_address) as client:
        yield client


def strictly(text: bytes) -> Any:
    """JSON as the standard has it: no NaN, no Infinity."""

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no JSON")

    return json.loads(text.decode("utf-8"), parse_constant=refuse)


def test_answers_are_json_whatever_they_hold(strict_rest: Rest, rest: Rest) -> None:
    body = {"instances": [1e300, -1e300, 1.0]}
    assert strictly(strict_rest.predict("half", body).body) == {"predictions": [None, None, 2.5]}
    loose = rest.predict("half", body).json["predictions"]
    assert loose[0] == math.inf
    assert loose[1] == -math.inf


def test_strings_that_are_no_text_are_answered_as_base64(strict_rest: Rest) -> None:
    body = {"signature_name": "string", "instances": [{"b64": "/w=="}, "é"]}
    assert strictly(strict_rest.predict("echo", body).body)["predictions"] == [{"b64": "/w=="}, "é"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"instances": [NaN]}', "Invalid value. at offset: 15"),
        (b'{"instances": [-Infinity]}', "Invalid value. at offset: 16"),
        (b'{"instances": [1]} {}', "The document root must not be followed by other values. at offset: 19"),
        (b'{"instances": [1], "a": "\xff"}', "Invalid encoding in string. at offset: 25"),
    ],
)
def test_requests_have_to_be_json(strict_rest: Rest, rest: Rest, body: bytes, reason: str) -> None:
    answer = strict_rest.predict("half", body)
    assert (answer.status, answer.error) == (400, f"JSON Parse error: {reason}")
    assert rest.predict("half", body).status == 200, "as TensorFlow Serving does"


def ask_for_gzip(rest: Rest, count: int, accepted: str) -> Answer:
    body = json.dumps({"instances": [1.0] * count})
    return rest.send("POST", "/v1/models/half:predict", body, {"Accept-Encoding": accepted})


def test_rest_answers_are_compressed_for_those_who_accept_it(strict_rest: Rest, rest: Rest) -> None:
    answer = ask_for_gzip(strict_rest, 1000, "br, gzip;q=0.5")
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.headers["vary"] == "Accept-Encoding"
    assert answer.headers["content-type"] == "application/json"
    assert int(answer.headers["content-length"]) == len(answer.body) < 1000
    assert json.loads(gzip.decompress(answer.body)) == {"predictions": [2.5] * 1000}
    for client, count, accepted in [(strict_rest, 1000, "gzip;q=0"), (strict_rest, 1, "gzip"), (rest, 1000, "gzip")]:
        plain = ask_for_gzip(client, count, accepted)
        assert plain.headers["content-encoding"] is None
        assert plain.json == {"predictions": [2.5] * count}


def half(size: int) -> Any:
    return predict_request("half", {"x": np.ones(size, np.float32)})


@pytest.mark.parametrize("compression", [grpcio.Compression.Gzip, grpcio.Compression.Deflate])
def test_grpc_messages_may_be_compressed(strict_grpc: Grpc, grpc: Grpc, compression: Any) -> None:
    for client in (strict_grpc, grpc):
        answer = client.predict(half(10_000), compression=compression)
        np.testing.assert_array_equal(array(answer.outputs["y"]), np.full(10_000, 2.5))


def test_a_compressed_message_is_limited_by_what_comes_out(strict_grpc: Grpc) -> None:
    bomb = half(400_000)
    assert len(zlib.compress(bomb.SerializeToString())) < 10_000
    with pytest.raises(grpcio.RpcError) as caught:
        strict_grpc.predict(bomb, compression=grpcio.Compression.Gzip)
    assert code_of(caught.value) == "RESOURCE_EXHAUSTED"
    assert "max_message_bytes" in details_of(caught.value)


def test_large_messages_cross_many_frames(grpc: Grpc) -> None:
    request = half(3_000_000)
    answer = grpc.predict(request)
    np.testing.assert_array_equal(array(answer.outputs["y"]), array(request.inputs["x"]) / 2 + 2)
