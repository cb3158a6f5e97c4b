"""The admin service in both its forms, over a reloader that only remembers."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import pytest
from servable.config.model_config import ModelConfig, Specific
from servable.control.answers import Wait
from servable.control.calls import find_handler
from servable.control.profiling import Profiling
from servable.errors import NotFoundError, ServableError
from servable.models.overlay import Origin
from servable.models.reload import Listed, Reloader
from servable.models.resolution import Failure, Resolution
from servable.types import ModelRoutes, VersionRoute

from tests.unit.fakes import FakeCodec, FakeServable

if TYPE_CHECKING:
    from servable.engine import Servable

ROUTES = {
    "a/b": ModelRoutes([VersionRoute(2, "AVAILABLE"), VersionRoute(1, "END", "NOT_FOUND", "gone")]),
}


@dataclass
class FakeReloader:
    models: list[ModelConfig] = field(default_factory=list)
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    removed: frozenset[str] = frozenset()
    is_slow: bool = False

    @property
    def listed(self) -> list[Listed]:
        return [Listed(model, Origin.ADMIN) for model in self.models]

    def add(self, model: ModelConfig) -> Resolution:
        self.models.append(model)
        resolution = Resolution([model.name], patient=False)
        if not self.is_slow:
            resolution.resolve(self.failures)
        return resolution

    def remove(self, name: str) -> None:
        self.calls.append((name,))

    def label(self, name: str, label: str, version: int | None) -> None:
        self.calls.append((name, label, version))


class FakeServer:
    def metrics_page(self) -> str:
        return ""

    def capture(self, model: str, count: int, max_bytes: int, timeout_s: float) -> list[bytes]:
        return [f"{model} {number}".encode() for number in range(count)]


def ignore(name: str, version: int) -> None:
    """Nobody loads what is asked for."""


NO_PROFILES = cast(Profiling, None)
"""Nothing here asks for one."""


def ask(reloader: FakeReloader, method: str, routes: Mapping[str, ModelRoutes] = ROUTES, **fields: Any) -> Any:
    find = find_handler(
        cast(Reloader, reloader), lambda: routes, lambda name, version: None, FakeServer(), FakeCodec(), NO_PROFILES
    )
    return json.loads(find(method).answer(json.dumps(fields).encode() if fields else b""))


@pytest.fixture
def reloader() -> FakeReloader:
    return FakeReloader([ModelConfig("z", "/z"), ModelConfig("a/b", "/a", labels={"x": 2})])


STATUS = {
    "config": {"name": "a/b", "base_path": "/a", "model_platform": "tensorflow", "version_labels": {"x": 2}},
    "origin": "ADMIN",
    "versions": [
        {"version": 2, "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}},
        {"version": 1, "state": "END", "status": {"error_code": "NOT_FOUND", "error_message": "gone"}},
    ],
}


@pytest.mark.parametrize("method", ["servable.admin.v1.Admin/ListModels", "GET /admin/v1/models"])
def test_models_are_listed_by_name(reloader: FakeReloader, method: str) -> None:
    first, second = ask(reloader, method)["models"]
    assert first == STATUS
    assert (second["config"]["name"], second["versions"]) == ("z", [])


@pytest.mark.parametrize("method", ["servable.admin.v1.Admin/ListModels", "GET /admin/v1/models"])
def test_a_list_tells_what_was_removed(method: str) -> None:
    assert ask(FakeReloader(removed=frozenset("yx")), method) == {"models": [], "removed": ["x", "y"]}


def test_one_model_is_told_of(reloader: FakeReloader) -> None:
    assert ask(reloader, "servable.admin.v1.Admin/GetModel", name="a/b") == STATUS
    assert ask(reloader, "GET /admin/v1/models/a%2Fb") == STATUS


def test_a_version_that_is_loading_may_say_why(reloader: FakeReloader) -> None:
    routes = {"z": ModelRoutes([VersionRoute(1, "LOADING", remark="RESOURCE_EXHAUSTED: no room yet")])}
    (version,) = ask(reloader, "GET /admin/v1/models/z", routes)["versions"]
    assert version["status"] == {"error_code": "OK", "error_message": "RESOURCE_EXHAUSTED: no room yet"}


def test_a_model_is_added(reloader: FakeReloader) -> None:
    policy = {"specific": {"versions": [1]}}
    answer = ask(reloader, "PUT /admin/v1/models/n", base_path="/n", model_version_policy=policy)
    assert answer["config"]["name"] == "n"
    config = {"name": "m", "base_path": "/m", "model_platform": "other"}
    ask(reloader, "servable.admin.v1.Admin/AddModel", config=config)
    assert reloader.models[2:] == [ModelConfig("n", "/n", policy=Specific((1,))), ModelConfig("m", "/m", "other")]


def test_labels_are_set_and_taken_away_and_models_removed(reloader: FakeReloader) -> None:
    ask(reloader, "PUT /admin/v1/models/a%2Fb/labels/x%20y", version=2)
    ask(reloader, "servable.admin.v1.Admin/SetLabel", name="z", label="x")
    ask(reloader, "DELETE /admin/v1/models/z/labels/x")
    ask(reloader, "servable.admin.v1.Admin/RemoveLabel", name="z", label="y")
    ask(reloader, "DELETE /admin/v1/models/z")
    ask(reloader, "servable.admin.v1.Admin/RemoveModel", name="y")
    assert reloader.calls == [("a/b", "x y", 2), ("z", "x", 0), ("z", "x", None), ("z", "y", None), ("z",), ("y",)]


def test_waiting_is_a_choice() -> None:
    slow = FakeReloader(is_slow=True)
    ask(slow, "PUT /admin/v1/models/m?wait=false", base_path="/m")
    with pytest.raises(ServableError) as caught:
        ask(slow, "servable.admin.v1.Admin/AddModel", config={"name": "n", "base_path": "/n"}, timeout_ms=1)
    assert caught.value.code == "DEADLINE_EXCEEDED"
    failed = FakeReloader(failures=[Failure("m", 1, NotFoundError("broken"))])
    with pytest.raises(ServableError, match=r"1 model\(s\) did not become available"):
        ask(failed, "PUT /admin/v1/models/m", base_path="/m")
    ask(failed, "PUT /admin/v1/models/m?wait=false", base_path="/m")


@pytest.mark.parametrize(
    ("method", "fields", "status"),
    [
        ("GET /admin/v1/models/none/batching", {}, "NOT_FOUND: Model none is not configured"),
        ("GET /admin/v1/models/z/batching?version=1", {}, "NOT_FOUND: Version 1 of model z is not available"),
        ("GET /admin/v1/models/a%2Fb/batching?version=2", {}, "NOT_FOUND: Version 2 of model a/b is not available"),
        ("GET /admin/v1/models/z/batching?versions=1", {}, "INVALID_ARGUMENT: GET /admin/v1/models/{name}/batching"),
        ("GET /admin/v1/models/z/batching?version=x", {}, "INVALID_ARGUMENT: Expected version to be a number; got x"),
        ("GET /admin/v1/models/none", {}, "NOT_FOUND: Model none is not configured"),
        ("GET /admin/v1/model", {}, "NOT_FOUND: Nothing is at /admin/v1/model; models are at /admin/v1/models"),
        ("GET /admin/v1/models/a/b", {}, "NOT_FOUND: Nothing is at"),
        ("POST /admin/v1/models/a:record", {}, "NOT_FOUND: Model a is not configured"),
        ("POST /admin/v1/models/z:record", {"n": 1}, "INVALID_ARGUMENT: Expected the body to be"),
        ("POST /admin/v1/models/z:record", {"count": 2000}, "INVALID_ARGUMENT: count is from 1 to 1000"),
        ("POST /admin/v1/models", {}, "UNIMPLEMENTED: POST is not done with /admin/v1/models; it takes GET"),
        ("PATCH /admin/v1/models/a", {}, "UNIMPLEMENTED: PATCH is not done with"),
        ("GET /admin/v1/models/%ff", {}, "INVALID_ARGUMENT: Expected UTF-8 after percent-decoding; got %ff"),
        ("GET /admin/v1/models?x=1", {}, "INVALID_ARGUMENT: GET /admin/v1/models takes no x"),
        ("PUT /admin/v1/models/m?wait=1", {"base_path": "/m"}, "INVALID_ARGUMENT: Expected wait to be true or false"),
        ("PUT /admin/v1/models/m", {"name": "n"}, "INVALID_ARGUMENT: Expected the name in the body to be that in"),
        ("PUT /admin/v1/models/m/labels/x", {"v": 1}, 'INVALID_ARGUMENT: Expected the body to be {"version": <number>'),
        ("servable.admin.v1.Admin/Reboot", {}, "UNIMPLEMENTED: servable.admin.v1.Admin has no method Reboot"),
        ("servable.admin.v1.Admin/GetModel", {}, "INVALID_ARGUMENT: Expected the name of a model; got none"),
        ("servable.admin.v1.Admin/SetLabel", {"name": "z"}, "INVALID_ARGUMENT: Expected a label; got none"),
        ("Unheard", {}, "NOT_FOUND: "),
        (
            "servable.admin.v1.Admin/AddModel",
            {"config": {"name": "m", "base_path": "/m"}, "timeout_ms": -1},
            "INVALID_ARGUMENT: Expected timeout_ms to be 0 or more; got -1",
        ),
    ],
)
def test_what_cannot_be_done_is_told(reloader: FakeReloader, method: str, fields: dict[str, Any], status: str) -> None:
    with pytest.raises(ServableError) as caught:
        ask(reloader, method, **fields)
    assert caught.value.status.startswith(status)


@pytest.mark.parametrize("body", [b"x", b"[1]", b"\xff", b"[" * 100_000])
def test_bodies_that_are_no_objects_are_refused(reloader: FakeReloader, body: bytes) -> None:
    find = find_handler(
        cast(Reloader, reloader), lambda: ROUTES, lambda name, version: None, FakeServer(), FakeCodec(), NO_PROFILES
    )
    with pytest.raises(ServableError) as caught:
        find("PUT /admin/v1/models/m").answer(body)
    assert caught.value.code == "INVALID_ARGUMENT"


def test_calls_wait_for_what_they_need(reloader: FakeReloader) -> None:
    find = find_handler(
        cast(Reloader, reloader), lambda: ROUTES, lambda name, version: None, FakeServer(), FakeCodec(), NO_PROFILES
    )
    waits = {
        method: find(method).waits_for
        for method in (
            "HandleReloadConfigRequest",
            "GET /admin/v1/models",
            "GET /admin/v1/models/m/batching",
            "PUT /admin/v1/models/m",
            "PUT /admin/v1/models/m/labels/x",
            "DELETE /admin/v1/models/m",
        )
    }
    assert waits == {
        "HandleReloadConfigRequest": Wait.MODELS,
        "GET /admin/v1/models": Wait.NOTHING,
        "GET /admin/v1/models/m/batching": Wait.NOTHING,
        "PUT /admin/v1/models/m": Wait.MODELS,
        "PUT /admin/v1/models/m/labels/x": Wait.DISK,
        "DELETE /admin/v1/models/m": Wait.DISK,
    }


def test_a_version_is_asked_for() -> None:
    asked: list[tuple[str, int]] = []
    find = find_handler(
        cast(Reloader, FakeReloader()),
        lambda: ROUTES,
        lambda name, version: asked.append((name, version)),
        FakeServer(),
        FakeCodec(),
        NO_PROFILES,
    )
    load = find("Load")
    assert load.waits_for is Wait.NOTHING
    assert load.answer(json.dumps({"name": "m", "version": 2}).encode()) == b""
    assert load.answer(json.dumps({"name": "n"}).encode()) == b"", "version 0 is left out of a message"
    assert asked == [("m", 2), ("n", 0)]


@pytest.mark.parametrize("method", ["servable.admin.v1.Admin/RecordRequests", "POST /admin/v1/models/a%2Fb:record"])
def test_requests_are_recorded(reloader: FakeReloader, method: str) -> None:
    fields: dict[str, Any] = {"name": "a/b"} if "Admin" in method else {}
    answer = ask(reloader, method, count=2, **fields)
    assert [base64.b64decode(record) for record in answer["records"]] == [b"a/b 0", b"a/b 1"]


def batched(version: int, report: dict[str, Any] | None) -> VersionRoute:
    servable = FakeServable("z", version, [])
    servable.report = report
    return VersionRoute(version, "AVAILABLE", servable=cast("Servable", servable))


def test_batching_is_told_of(reloader: FakeReloader) -> None:
    report = {"mode": "fixed", "latency_slo_ms": None, "queues": [{"inputs": ["x:0"], "batches": 3}]}
    routes = {"z": ModelRoutes([VersionRoute(3, "LOADING"), batched(2, report), batched(1, None)])}
    second, first = {"version": 2, **report}, {"version": 1, "mode": "none", "queues": []}
    rpc = "servable.admin.v1.Admin/GetBatching"
    assert ask(reloader, "GET /admin/v1/models/z/batching", routes) == {"versions": [second, first]}
    assert ask(reloader, rpc, routes, name="z") == {"versions": [second, first]}
    assert ask(reloader, "GET /admin/v1/models/z/batching?version=1", routes) == {"versions": [first]}
    assert ask(reloader, rpc, routes, name="z", version=2) == {"versions": [second]}
    assert ask(reloader, "GET /admin/v1/models/z/batching") == {"versions": []}
