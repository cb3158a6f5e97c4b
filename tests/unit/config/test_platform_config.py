from __future__ import annotations

import json
from typing import Any

import pytest
from servable.config.batching import BatchingParameters
from servable.config.platform_config import ADAPTER, MOST_WARMUP_THREADS, PlatformOptions, check_thread_pools, from_text
from servable.errors import ServableError

from tests.unit.fakes import FakeCodec


def platforms(**adapters: dict[str, Any]) -> dict[str, PlatformOptions]:
    configs = {name: {"source_adapter_config": adapter} for name, adapter in adapters.items()}
    return from_text(json.dumps({"platform_configs": configs}), FakeCodec())


def bundle(**fields: Any) -> PlatformOptions:
    adapter = {"@type": f"type.googleapis.com/{ADAPTER}", "legacy_config": fields}
    return platforms(tensorflow=adapter)["tensorflow"]


def test_what_is_not_said_is_as_the_message_has_it() -> None:
    assert bundle() == PlatformOptions(session=b"{}")


def test_fields_are_read() -> None:
    options = bundle(
        session_config={"allow_soft_placement": True},
        saved_model_tags=["serve", "gpu"],
        enable_model_warmup=True,
        model_warmup_options={"num_request_iterations": 3, "num_model_warmup_threads": 4},
        batching_parameters={"max_batch_size": 4},
        enable_per_model_batching_params=True,
    )
    assert options == PlatformOptions(
        tags=("serve", "gpu"),
        session=b'{"allow_soft_placement": true}',
        warmup=True,
        warmup_iterations=3,
        warmup_threads=4,
        batching=BatchingParameters(max_batch_size=4),
        per_version_batching=True,
    )


@pytest.mark.parametrize(
    ("fields", "batching"),
    [
        ({}, None),
        ({"batching_parameters": {}}, BatchingParameters()),
        ({"batching_parameters": {"max_batch_size": 0}}, BatchingParameters(max_batch_size=0)),  # a version is to fail
        ({"batching_parameters": {}, "wrap_session_with_no_threading_params": True}, None),
    ],
)
def test_batching_begins_with_parameters(fields: dict[str, Any], batching: BatchingParameters | None) -> None:
    options = bundle(**fields)
    assert (options.batching, options.ignored) == (batching, ())


def test_what_has_no_effect_is_told() -> None:
    assert bundle(prefer_tflite_model=True, enable_session_metadata=True).ignored == ("prefer_tflite_model",)
    options = bundle(model_warmup_options={"num_model_warmup_threads": 2, "enable_all_batch_sizes_warmup": True})
    assert options.ignored == ("model_warmup_options.enable_all_batch_sizes_warmup",)


@pytest.mark.parametrize(("said", "threads"), [(-1, 1), (0, 1), (2, 2), (1 << 30, MOST_WARMUP_THREADS)])
def test_threads_of_warm_up_are_bounded(said: int, threads: int) -> None:
    assert bundle(model_warmup_options={"num_model_warmup_threads": said}).warmup_threads == threads


def test_a_map_may_be_empty_or_have_many() -> None:
    assert platforms() == {}
    adapter = {"@type": f"type.googleapis.com/{ADAPTER}"}
    assert list(platforms(a=adapter, b=adapter)) == ["a", "b"]


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ({}, "Couldn't find factory for config proto message type that is not named. Platform x takes tensorflow."),
        ({"@type": "type.googleapis.com/a.B"}, "Couldn't find factory for config proto message type a.B."),
        (
            {
                "@type": f"type.googleapis.com/{ADAPTER}",
                "legacy_config": {"batching_parameters": {"num_batch_threads": 0}},
            },
            "num_batch_threads must be positive; was 0",
        ),
    ],
)
def test_platforms_that_cannot_be(adapter: dict[str, Any], message: str) -> None:
    with pytest.raises(ServableError) as caught:
        platforms(x=adapter)
    assert caught.value.code == "INVALID_ARGUMENT"
    assert caught.value.message.startswith(message)


class BadContent(FakeCodec):
    def __init__(self, reason: str) -> None:
        self.reason = reason

    def decode_message(self, message: str, data: bytes) -> str:
        raise ValueError(self.reason)


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        ("message 'a.B' not found", "INTERNAL: Unable to find compiled-in proto descriptor of type a.B"),
        ("invalid varint", "INVALID_ARGUMENT: Malformed content of Any: invalid varint"),
    ],
)
def test_contents_that_cannot_be_read(reason: str, status: str) -> None:
    with pytest.raises(ServableError) as caught:
        from_text("{}", BadContent(reason))
    assert caught.value.status.startswith(status)


def test_there_are_no_factories_of_thread_pools() -> None:
    check_thread_pools("{}", FakeCodec())
    text = json.dumps({"thread_pool_factory_config": {"@type": "type.googleapis.com/a.B"}})
    with pytest.raises(ServableError, match=r"Couldn't find factory for config proto message type a\.B: there is none"):
        check_thread_pools(text, FakeCodec())
