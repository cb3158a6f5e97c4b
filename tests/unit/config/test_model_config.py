from __future__ import annotations

import json
from typing import Any

import pytest
from servable.config.model_config import (
    All,
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
)
from servable.errors import FailedPreconditionError, InvalidArgumentError, ServableError, UnimplementedError

from tests.unit.fakes import FakeCodec

MODEL = {"name": "m", "base_path": "/m", "model_platform": "tensorflow"}


def listed(**fields: Any) -> dict[str, Any]:
    return {"model_config_list": {"config": [{**MODEL, **fields}]}}


def test_a_list_becomes_values() -> None:
    text = json.dumps(listed(version_labels={"stable": 1}))
    assert from_text(text, FakeCodec()) == (ModelConfig("m", "/m", labels={"stable": 1}),)


def test_an_empty_list_is_a_list_and_an_empty_file_is_none() -> None:
    assert from_json({"model_config_list": {}}) == ()
    assert from_text("", FakeCodec()) is None


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
    ("allow_unavailable", "before", "version", "is_accepted"),
    [
        (False, {}, 1, True),  # available
        (False, {}, 2, False),
        (False, {"stable": 2}, 2, False),  # stays, but is not available any more
        (True, {}, 2, True),  # new
        (True, {"stable": 2}, 2, True),  # stays
        (True, {"stable": 1}, 2, False),  # moves
        (True, {"stable": 2}, 1, True),  # moves to what is available
        (True, {"canary": 1}, 2, True),  # new beside another one
    ],
)
def test_labels(allow_unavailable: bool, before: dict[str, int], version: int, is_accepted: bool) -> None:
    def check() -> None:
        check_labels(
            [ModelConfig("m", "/m", labels={"stable": version})],
            before=[ModelConfig("m", "/m", labels=before)],
            available={"m": [1]},
            allow_unavailable=allow_unavailable,
        )

    if is_accepted:
        check()
        return
    with pytest.raises(FailedPreconditionError) as caught:
        check()
    assert caught.value.message == (
        "Request to assign label to version 2 of model m, which is not currently available for inference"
    )
