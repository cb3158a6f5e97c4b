from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any, cast

import pytest
from servable.config.model_config import ModelConfig
from servable.errors import FailedPreconditionError, NotFoundError, ServableError
from servable.models.loader import Loader
from servable.models.manager import Manager, Retries
from servable.models.reload import Reloader, answer_reload, unavailable, watch_config_file
from servable.models.source import Aspired, FileSystemSource

from tests.unit.fakes import FakeCodec, FakeServable, statuses

A, B = ModelConfig("a", "/a"), ModelConfig("b", "/b")


class InlinePool:
    """Runs a job where it is submitted: every wait of the reloader is over before it begins."""

    def submit(self, job: Callable[[], None]) -> None:
        job()


class World:
    """A reloader on a file system that is a dict, with a manager that works on its own thread."""

    def __init__(self, folders: dict[str, list[str]], *, allow_unavailable_labels: bool = False) -> None:
        self.folders = folders
        self.broken: set[str] = set()
        self.manager = Manager(
            make_loader=lambda name, goal: cast(Loader, FakeLoader(self, name, goal)),
            publish=lambda routes: None,
            loads=InlinePool(),
            unloads=InlinePool(),
            retries=Retries(0),
        )
        self.source = FileSystemSource(self.manager.aspire, folders=self._children)
        self.reloader = Reloader(
            manager=self.manager,
            source=self.source,
            platforms=["tensorflow"],
            check_base_path=self._check_base_path,
            allow_unavailable_labels=allow_unavailable_labels,
        )
        threading.Thread(target=self.manager.run, daemon=True).start()

    def _children(self, path: str) -> list[str]:
        if path not in self.folders:
            raise FileNotFoundError(2, "No such file or directory", path)
        return self.folders[path]

    def _check_base_path(self, base_path: str) -> None:
        if base_path.startswith("s3:"):
            raise FailedPreconditionError("pip install it")

    def start(self, *models: ModelConfig) -> None:
        assert self.reloader.start(models).wait(10)

    def states(self, name: str) -> dict[int, str]:
        return statuses(self.manager.routes, name)


class FakeLoader:
    def __init__(self, world: World, name: str, goal: Aspired) -> None:
        self._world, self._name, self._goal = world, name, goal

    def load(self) -> FakeServable:
        if self._goal.path in self._world.broken:
            raise NotFoundError("broken")
        return FakeServable(self._name, self._goal.version, [])


@pytest.fixture
def world() -> World:
    return World({"/a": ["1"], "/b": ["1"]})


def failure(reload: Callable[[], object]) -> ServableError:
    with pytest.raises(ServableError) as caught:
        reload()
    return caught.value


def test_a_new_model_is_available_when_the_reload_returns(world: World) -> None:
    world.start(A)
    world.reloader.reload([A, B])
    assert world.states("b") == {1: "AVAILABLE"}


def test_a_model_left_out_is_unloaded(world: World) -> None:
    world.start(A, B)
    world.reloader.reload([A])
    assert world.manager.close().wait(10)
    assert world.states("b") == {1: "END"}


def test_a_list_with_a_base_path_that_cannot_be_read_is_refused(world: World) -> None:
    world.start(A)
    error = failure(lambda: world.reloader.reload([B, ModelConfig("c", "s3://bucket/c")]))
    assert error.status == "FAILED_PRECONDITION: pip install it"
    assert world.reloader.models == (A,)
    assert world.states("a") == {1: "AVAILABLE"}


def test_an_empty_list_unloads_everything_and_no_list_is_refused(world: World) -> None:
    world.start(A)
    assert isinstance(failure(lambda: world.reloader.reload(None)), FailedPreconditionError)
    assert world.states("a") == {1: "AVAILABLE"}
    world.reloader.reload([])
    assert world.reloader.models == ()


def test_a_new_model_that_fails_is_told_each_time(world: World) -> None:
    world.start(A)
    world.broken.add("/b/1")
    for _ in range(2):
        error = failure(lambda: world.reloader.reload([A, B]))
        assert error.status == (
            "UNKNOWN: 1 model(s) did not become available: {{{name: b version: 1} due to error: NOT_FOUND: broken}, }"
        )
    assert world.reloader.models == (A, B)
    world.broken.clear()
    world.folders["/b"] = ["2"]
    world.reloader.reload([A, B])
    assert world.states("b")[2] == "AVAILABLE"


@pytest.mark.parametrize("folders", [{"/a": ["1"]}, {"/a": ["1"], "/b": ["x"]}])
def test_a_new_model_without_versions_does_not_hang_the_reload(folders: dict[str, list[str]]) -> None:
    world = World(folders)
    world.start(A)
    assert failure(lambda: world.reloader.reload([A, B])).message == (
        "1 model(s) did not become available: "
        "{{{name: b} due to error: NOT_FOUND: no version was found under its base path}, }"
    )


def test_a_kept_model_is_not_waited_for(world: World) -> None:
    world.start(A)
    del world.folders["/a"]
    world.reloader.reload([A, B])


@pytest.mark.parametrize(
    "models",
    [
        [A, A],
        [ModelConfig("b", "b")],
        [ModelConfig("a", "/a", "other")],
        [ModelConfig("b", "/b", "other")],
        [ModelConfig("a", "/a", labels={"stable": 2}), B],
    ],
)
def test_a_list_that_is_refused_changes_nothing(world: World, models: list[ModelConfig]) -> None:
    world.start(A)
    failure(lambda: world.reloader.reload(models))
    assert world.reloader.models == (A,)
    assert world.states("b") == {}


def test_a_label_moves_to_an_available_version(world: World) -> None:
    world.start(A)
    labelled = ModelConfig("a", "/a", labels={"stable": 1})
    world.reloader.reload([labelled])
    assert world.reloader.models == (labelled,)


def test_labels_at_start_need_the_flag() -> None:
    labelled = ModelConfig("a", "/a", labels={"stable": 1})
    with pytest.raises(FailedPreconditionError):
        World({"/a": ["1"]}).start(labelled)
    World({"/a": ["1"]}, allow_unavailable_labels=True).start(labelled)


def request(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def test_the_rpc_answers_with_a_metric_per_name(world: World) -> None:
    world.start(A)
    message = {"model_config_list": {"config": [{"name": "b", "base_path": "/b", "model_platform": "tensorflow"}]}}
    answer = answer_reload(request(config=message, metric_names=["x", "y", "x"]), world.reloader, FakeCodec())
    assert json.loads(answer) == {
        "status": {},
        "metric": [{"name": "x", "int64_value_increase": 0}, {"name": "y", "int64_value_increase": 0}],
    }
    assert world.reloader.models == (B,)


def test_the_rpc_wants_a_list(world: World) -> None:
    error = failure(lambda: answer_reload(request(), world.reloader, FakeCodec()))
    assert error.code == "INVALID_ARGUMENT"
    assert "Only ModelConfigList is currently supported" in error.message


def test_unavailable_models_in_the_words_of_tensorflow_serving() -> None:
    assert unavailable("servable(s)", []).status == "UNKNOWN: 0 servable(s) did not become available: {}"


class Ticks(threading.Event):
    """An event that is set after a number of waits, none of which takes time."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._left = count

    def wait(self, timeout: float | None = None) -> bool:
        self._left -= 1
        return self._left < 0


def test_the_watched_file_is_applied_when_it_changes(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.start(A)
    contents = iter([[A], [A, B], [A, B], None, None, [B]])
    seen = []

    def read() -> list[ModelConfig] | None:
        seen.append(world.reloader.models)
        return next(contents)

    watch_config_file(read, world.reloader, 1.0, Ticks(6))
    assert [len(models) for models in seen] == [1, 1, 2, 2, 2, 2]
    assert world.reloader.models == (B,)
    complaints = [record.message for record in caplog.records if "failed to ReloadConfig" in record.message]
    assert len(complaints) == 1
