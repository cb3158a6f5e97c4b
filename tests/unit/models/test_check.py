from __future__ import annotations

import json
from typing import Any

import pytest
from servable.models.check import World, check

from tests.unit.fakes import FakeCodec

FOLDERS = {"/m": ["1", "2"], "/broken": ["1"], "/plain": ["1"], "/tagged": ["1"], "/empty": ["x"]}
GOOD = {"tags": ["serve"], "signatures": {"serving_default": {}}}
PLAIN = {"tags": ["serve"], "signatures": {"__saved_model_init_op": {}}}
TAGGED = {"tags": ["serve", "gpu"], "signatures": {}}


class BrokenError(Exception):
    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code, self.message = code, "does not parse"


def folders(path: str) -> list[str]:
    if path == "/file":
        raise NotADirectoryError(20, "Not a directory", path)
    if path not in FOLDERS:
        raise FileNotFoundError(2, "No such file or directory", path)
    return FOLDERS[path]


def describe(path: str) -> str:
    if path == "/broken/1":
        raise BrokenError("DATA_LOSS")
    graph = {"/plain/1": PLAIN, "/tagged/1": TAGGED}.get(path, GOOD)
    return json.dumps({"meta_graphs": [graph]})


def entry(**fields: Any) -> dict[str, Any]:
    return {"name": "m", "base_path": "/m", "model_platform": "tensorflow", **fields}


def found(*entries: dict[str, Any], **server: Any) -> list[str]:
    text = json.dumps({"model_config_list": {"config": entries}})
    findings = check(text, FakeCodec(), World(folders, describe, BrokenError, **server))
    return [f"{finding.severity.value} {finding.field}: {finding.problem}" for finding in findings]


def test_nothing_is_said_about_what_is_right() -> None:
    assert found(entry(), entry(name="n", model_version_policy={"specific": {"versions": [1]}})) == []


@pytest.mark.parametrize(
    ("fields", "finding"),
    [
        ({"name": ""}, "error name: the model has no name"),
        ({"base_path": "m"}, "error base_path: Expected model m to have an absolute path or URI; got base_path()=m"),
        ({"model_platform": "tensorfow"}, "error model_platform: Model m requests unsupported platform tensorfow"),
        ({"base_path": "/none"}, "warning base_path: /none: No such file or directory"),
        ({"base_path": "/file"}, "error base_path: /file: Not a directory"),
        ({"base_path": "/empty"}, "warning base_path: /empty holds no version"),
        ({"base_path": "/broken"}, "error base_path: does not parse"),
        ({"base_path": "/plain"}, "warning base_path: /plain/1 has no signature that requests could name"),
        ({"base_path": "/tagged"}, "warning base_path: /tagged/1 has no graph with the tag serve alone"),
        (
            {"servable": {"batching": {"max_batch_size": 0}}},
            "error batching: The batching of model m cannot be: input_batch_size_limit must be positive; was 0",
        ),
        ({"logging_config": {}}, "error logging_config: no log_collector_config says where requests are logged"),
        (
            {"logging_config": {"log_collector_config": {"type": "os:system", "filename_prefix": "true"}}},
            "error logging_config: type os:system of log_collector_config is unknown",
        ),
        (
            {"model_platform": "", "model_type": "TENSORFLOW"},
            "warning model_type: model_type is deprecated",
        ),
        (
            {"model_version_policy": {"specific": {"versions": [1, 9]}}},
            "warning model_version_policy: version 9 is not there",
        ),
    ],
)
def test_findings(fields: dict[str, Any], finding: str) -> None:
    assert found(entry(**fields)) == [finding]


def test_a_server_may_have_other_platforms_and_a_root() -> None:
    assert found(entry(model_platform="own"), platforms=["own"]) == []
    assert found(entry(base_path="m"), root="/") == []
    assert found(entry(base_path="none"), root="/models/") == [
        "warning base_path: /models/none: No such file or directory"
    ]


def test_all_entries_are_looked_at() -> None:
    assert found(entry(base_path="m"), entry(), entry(name="n", base_path="n")) == [
        "error base_path: Expected model m to have an absolute path or URI; got base_path()=m",
        "error name: model m is listed before",
        "error base_path: Expected model n to have an absolute path or URI; got base_path()=n",
    ]


@pytest.mark.parametrize(
    ("policy", "version", "is_served"),
    [
        ({}, 2, True),
        ({}, 1, False),
        ({"all": {}}, 1, True),
        ({"specific": {"versions": [1]}}, 1, True),
        ({"specific": {"versions": [1]}}, 2, False),
    ],
)
def test_labels_have_to_point_at_what_is_served(policy: dict[str, Any], version: int, is_served: bool) -> None:
    findings = found(entry(model_version_policy=policy, version_labels={"x": version}))
    problem = f"error version_labels: label x points at version {version}, which is not served"
    assert (problem not in findings) == is_served
    assert findings[-1].startswith("warning version_labels: a server that starts with labels refuses them")


def test_a_list_without_models_is_odd() -> None:
    assert found() == ["warning : no model is listed"]


def test_other_configurations_are_refused() -> None:
    findings = check('{"custom_model_config": {}}', FakeCodec(), World(folders, describe, BrokenError))
    assert [finding.problem for finding in findings] == ["custom_model_config is not supported"]


def test_text_that_does_not_parse_has_a_place() -> None:
    (finding,) = check("{\n x", FakeCodec(), World(folders, describe, BrokenError))
    assert finding.line == 2
    assert finding.problem.startswith("column 2: ")
