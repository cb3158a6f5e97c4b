from __future__ import annotations

import json
from typing import Any

import pytest
from servable import engine
from servable.config.batching import BatchingParameters
from servable.config.model_config import (
    All,
    LabelRule,
    Latest,
    ModelConfig,
    Policy,
    Specific,
    Transition,
    check_labels,
    check_list,
    check_platforms,
    from_json,
    from_text,
    model_from_json,
    rooted,
    to_json,
)
from servable.errors import FailedPreconditionError, InvalidArgumentError, ServableError, UnimplementedError

from tests.unit.fakes import FakeCodec

MODEL = {"name": "m", "base_path": "/m", "model_platform": "tensorflow"}


def listed(**fields: Any) -> dict[str, Any]:
    return {"model_config_list": {"config": [{**MODEL, **fields}]}}


def test_a_list_becomes_values() -> None:
    text = json.dumps(listed(version_labels={"stable": 1}))
    assert from_text(text, FakeCodec(), "f") == (ModelConfig("m", "/m", labels={"stable": 1}),)


def test_an_empty_list_is_a_list_and_an_empty_file_is_none() -> None:
    assert from_json({"model_config_list": {}}) == ()
    assert from_text("", FakeCodec(), "f") is None


@pytest.mark.parametrize(
    ("message", "policy"),
    [
        ({}, Latest(1)),
        ({"latest": {}}, Latest(1)),
        ({"latest": {"num_versions": 3}}, Latest(3)),
        ({"all": {}}, All()),
        ({"specific": {"versions": [2, 1]}}, Specific((2, 1))),
        ({"specific": {}}, Specific(())),
    ],
)
def test_policies(message: dict[str, Any], policy: Policy) -> None:
    models = from_json(listed(model_version_policy=message))
    assert models is not None
    assert models[0].policy == policy


def test_options_of_a_model() -> None:
    options = {"transition": "RESOURCE_PRESERVING", "loading": "LAZY", "pinned": True}
    assert from_json(listed(servable=options)) == (
        ModelConfig("m", "/m", transition=Transition.RESOURCE_PRESERVING, lazy=True, pinned=True),
    )
    assert from_json(listed(servable={"loading": "EAGER"})) == (ModelConfig("m", "/m", lazy=False),)


def test_batching_of_a_model() -> None:
    assert from_json(listed(servable={"batching": {"max_batch_size": 8}})) == (
        ModelConfig("m", "/m", batching=BatchingParameters(max_batch_size=8)),
    )
    assert from_json(listed(servable={"batching": {}})) == (ModelConfig("m", "/m", batching=BatchingParameters()),)


@pytest.mark.parametrize(
    ("batching", "message"),
    [
        ({"num_batch_threads": 0}, "num_batch_threads must be positive; was 0"),
        ({"max_batch_size": 0}, "input_batch_size_limit must be positive; was 0"),
        ({"servable": {"padding_policy": 9}}, "padding_policy has to be "),
    ],
)
def test_batching_that_cannot_be_is_refused_with_the_list(batching: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        from_json(listed(servable={"batching": batching}))
    assert caught.value.message.startswith(f"The batching of model m cannot be: {message}")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "TENSORFLOW"}, "Illegal setting both ModelServerConfig::model_type (deprecated) and"),
        ({"model_platform": ""}, "Illegal setting neither ModelServerConfig::model_type (deprecated) nor"),
        ({"model_platform": "", "model_type": "OTHER"}, "ModelServerConfig::model_type choice OTHER not supported."),
    ],
)
def test_models_that_cannot_be(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        from_json(listed(**fields))
    assert caught.value.message.startswith(message)


def test_the_deprecated_type_means_the_platform() -> None:
    assert from_json(listed(model_platform="", model_type="TENSORFLOW")) == (ModelConfig("m", "/m"),)


def test_custom_config_is_refused() -> None:
    with pytest.raises(UnimplementedError, match="does not yet support custom model config"):
        from_json({"custom_model_config": {}})


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ([("m", "/a"), ("m", "/b")], "Illegal to list model m multiple times in config list"),
        ([("m", "a/b")], "Expected model m to have an absolute path or URI; got base_path()=a/b"),
        ([("m", "")], "Expected model m to have an absolute path or URI; got base_path()="),
        (
            [("m", "ftp://a/b")],
            "Model m: cannot read ftp://a/b; a base path is an absolute path, file:///path, or begins with a store: "
            "s3://, gs://, gcs://, az://, abfs://, abfss://, hdfs://, http://, https://",
        ),
        ([("m", "/a\0")], "Model 'm': base_path has a NUL, which no path can have: '/a\\x00'"),
        ([("m\0", "/a")], "Model 'm\\x00': name has a NUL, which no path can have: 'm\\x00'"),
        ([("", "/a")], "Expected every model to have a name; the one at /a has none"),
    ],
)
def test_lists_that_cannot_be(models: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(ServableError) as caught:
        check_list([ModelConfig(*model) for model in models])
    assert caught.value.message == message


def test_a_kept_model_keeps_its_platform() -> None:
    with pytest.raises(
        InvalidArgumentError, match=r"Illegal to change a model's platform\. For model m platform was a "
    ):
        check_list([ModelConfig("m", "/m", "b")], [ModelConfig("m", "/m", "a")])
    check_list([ModelConfig("m", "/m", "b")], [ModelConfig("other", "/m", "a")])


def test_an_unknown_platform_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="Model m requests unsupported platform caffe"):
        check_platforms([ModelConfig("m", "/m", "caffe")], ["tensorflow"])


@pytest.mark.parametrize(
    ("rule", "before", "version", "is_accepted"),
    [
        (LabelRule.AVAILABLE, {}, 1, True),
        (LabelRule.AVAILABLE, {}, 2, False),
        (LabelRule.AVAILABLE, {"stable": 2}, 2, False),  # stays, but is not available any more
        (LabelRule.NEW, {}, 2, True),  # new
        (LabelRule.NEW, {"stable": 2}, 2, True),  # stays
        (LabelRule.NEW, {"stable": 1}, 2, False),  # moves
        (LabelRule.NEW, {"stable": 2}, 1, True),  # moves to what is available
        (LabelRule.NEW, {"canary": 1}, 2, True),  # new beside another one
        (LabelRule.ANY, {"stable": 1}, 2, True),
    ],
)
def test_labels(rule: LabelRule, before: dict[str, int], version: int, is_accepted: bool) -> None:
    def check() -> None:
        check_labels(
            [ModelConfig("m", "/m", labels={"stable": version})],
            before=[ModelConfig("m", "/m", labels=before)],
            available={"m": [1]},
            rule=rule,
        )

    if is_accepted:
        check()
        return
    with pytest.raises(FailedPreconditionError) as caught:
        check()
    assert caught.value.message == (
        "Request to assign label to version 2 of model m, which is not currently available for inference"
    )


def test_a_model_survives_json() -> None:
    full = ModelConfig(
        "m",
        "/m",
        "other",
        Specific((1, 2)),
        {"stable": 1},
        Transition.RESOURCE_PRESERVING,
        lazy=True,
        pinned=True,
        batching=BatchingParameters(max_batch_size=8, latency_slo_ms=20.0),
        logging={"sampling_config": {"sampling_rate": 0.5}},
    )
    for model in (full, ModelConfig("m", "/m"), ModelConfig("m", "/m", policy=All(), lazy=False, logging={})):
        assert model_from_json(to_json(model)) == model
    assert to_json(ModelConfig("m", "/m")) == {"name": "m", "base_path": "/m", "model_platform": "tensorflow"}


def test_labels_may_be_off() -> None:
    check_labels([ModelConfig("m", "/m")], available={}, rule=LabelRule.NONE)
    with pytest.raises(FailedPreconditionError, match="Model version labels are not currently allowed by the server"):
        check_labels([ModelConfig("m", "/m", labels={"x": 1})], available={"m": [1]}, rule=LabelRule.NONE)


def test_relative_paths_are_joined_to_the_root() -> None:
    models = [ModelConfig("a", "a/b"), ModelConfig("b", "/b"), ModelConfig("c", "gs://c")]
    assert [model.base_path for model in rooted(models, "/root")] == ["/root/a/b", "/b", "gs://c"]
    assert [model.base_path for model in rooted(models, "gs://root/")] == ["gs://root/a/b", "/b", "gs://c"]
    assert rooted(models, "") == tuple(models)


TEXT = """
model_config_list {
  config {
    name: "a"
    base_path: "a"
    model_platform: "tensorfow"
  }
  config {
    base_path: "/b"
    version_labels { key: "x" value: 1 }
    name: "a"
    model_platform: "tensorflow"
    servable { batching { max_batch_size { value: 4 } } }
  }
}
"""


def test_errors_tell_where_in_a_file_they_are() -> None:
    """With the engine's codec, since the place is one in protobuf text."""
    first, second = from_text(TEXT, engine, "m.config") or ()
    with pytest.raises(
        InvalidArgumentError, match=r"absolute path or URI; got base_path\(\)=a \(m.config:5, field base_path\)$"
    ):
        check_list([first])
    with pytest.raises(InvalidArgumentError, match=r"multiple times in config list \(m.config:11, field name\)$"):
        check_list([first, second])
    with pytest.raises(InvalidArgumentError, match=r"platform tensorfow \(m.config:6, field model_platform\)$"):
        check_platforms([first, second], ["tensorflow"])
    with pytest.raises(FailedPreconditionError, match=r"for inference \(m.config:10, field version_labels\)$"):
        check_labels([second], available={}, rule=LabelRule.AVAILABLE)
    with pytest.raises(InvalidArgumentError, match=r"must be positive; was 0 \(m.config:13, field batching\)$"):
        from_text(TEXT.replace("value: 4", "value: 0"), engine, "m.config")
    assert second == ModelConfig("a", "/b", labels={"x": 1}, batching=second.batching), "a place makes no difference"
