from __future__ import annotations

from typing import Any

import pytest
from servable.cli.models import as_list, as_status, models

MODEL: dict[str, Any] = {
    "config": {
        "name": "ranker",
        "base_path": "/m/ranker",
        "model_platform": "tensorflow",
        "version_labels": {"stable": 1, "canary": 2},
        "model_version_policy": {"specific": {"versions": [1, 2]}},
    },
    "origin": "CONFIG_FILE",
    "versions": [
        {"version": 3, "state": "LOADING", "status": {"error_code": "OK", "error_message": "UNAVAILABLE: too big"}},
        {"version": 2, "state": "END", "status": {"error_code": "NOT_FOUND", "error_message": "gone"}},
        {"version": 1, "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}},
    ],
}
BARE = {
    "config": {"name": "b", "base_path": "/b", "model_platform": "tensorflow"},
    "origin": "ADMIN",
    "versions": [],
}


def test_a_list_for_people() -> None:
    assert as_list([BARE, MODEL]) == [
        "MODEL   VERSIONS                       LABELS              FROM         BASE PATH",
        "b       none                                               admin        /b",
        "ranker  3 LOADING, 2 END, 1 AVAILABLE  canary=2, stable=1  config file  /m/ranker",
    ]
    assert as_list([]) == ["No model is configured."]


def test_one_model_for_people() -> None:
    assert as_status(MODEL) == [
        "model      ranker",
        "base path  /m/ranker",
        "platform   tensorflow",
        "serves     versions 1, 2",
        "labels     canary=2, stable=1",
        "from       config file",
        "version 3  LOADING  UNAVAILABLE: too big",
        "version 2  END  NOT_FOUND: gone",
        "version 1  AVAILABLE",
    ]
    assert as_status(BARE)[-1] == "versions   none"


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        ({}, "the latest version"),
        ({"latest": {"num_versions": 3}}, "the 3 latest versions"),
        ({"all": {}}, "all versions"),
    ],
)
def test_policies_for_people(policy: dict[str, Any], text: str) -> None:
    config = {**BARE["config"], "model_version_policy": policy}  # type: ignore[dict-item]
    assert f"serves     {text}" in as_status({**BARE, "config": config})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["add", "m"], "the following arguments are required: --base_path"),
        (["add", "m", "--base_path=/m", "--versions=a"], "expected numbers such as 1,2; got a"),
        (["add", "m", "--base_path=/m", "--label=a"], "expected a label and a number, such as stable=1; got a"),
        (["add", "m", "--base_path=/m", "--timeout=nan"], "expected a number of seconds; got nan"),
        (["add", "m", "--base_path=/m", "--all", "--latest=2"], "not allowed with argument"),
        (["label", "m", "stable"], "Expected a version for the label, or --remove"),
        (["label", "m", "stable", "1", "--remove"], "Expected a version for the label, or --remove"),
        (["list", "--server=here"], "Expected --server to be HOST:PORT; got here"),
        (["lst"], "invalid choice: 'lst'"),
    ],
)
def test_mistakes_end_with_255_and_a_hint(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert models(arguments) == 255
    assert message in capsys.readouterr().err
