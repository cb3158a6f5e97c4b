from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from servable.config.model_config import All, LabelRule, ModelConfig
from servable.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError, ServableError
from servable.models.loader import Loader, Prepared
from servable.models.manager import Manager, Outside, Pools, Retries
from servable.models.overlay import Origin
from servable.models.pool import Pool, ThreadPool
from servable.models.reload import Look, Reloader, answer_reload, unavailable, watch_config_file
from servable.models.source import Aspired, FileSystemSource
from servable.models.state_file import StateFile

from tests.unit.fakes import FakeCodec, FakeServable, statuses

A, B = ModelConfig("a", "/a"), ModelConfig("b", "/b")


class InlinePool:
    """Runs a job where it is submitted: every wait of the reloader is over before it begins."""

    def submit(self, job: Callable[[], None]) -> bool:
        job()
        return True


class World:
    """A reloader on a file system that is a dict, with a manager that works on its own thread."""

    def __init__(
        self,
        folders: dict[str, list[str]],
        *,
        labels: LabelRule = LabelRule.AVAILABLE,
        root: str = "",
        state: StateFile | None = None,
        loads: Pool | None = None,
        **options: Any,
    ) -> None:
        self.folders = folders
        self.broken: set[str] = set()
        self.held = threading.Event()
        """Loads wait for it; it is set unless a test clears it."""
        self.held.set()
        self.manager = Manager(
            Outside(
                prepare=lambda name, goal: Prepared(cast(Loader, FakeLoader(self, name, goal))),
                publish=lambda routes: None,
            ),
            Pools(lambda path: InlinePool(), loads or InlinePool(), InlinePool()),
            retries=Retries(0),
        )
        self.source = FileSystemSource(self.manager.aspire, folders=self._children)
        self.reloader = Reloader(
            manager=self.manager,
            source=self.source,
            platforms=["tensorflow"],
            check_base_path=self._check_base_path,
            labels=labels,
            root=root,
            **options,
            state=state,
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
        assert self.reloader.start(models).configured.wait(10)

    def states(self, name: str) -> dict[int, str]:
        return statuses(self.manager.routes, name)


class FakeLoader:
    def __init__(self, world: World, name: str, goal: Aspired) -> None:
        self._world, self._name, self._goal = world, name, goal

    def load(self) -> FakeServable:
        self._world.held.wait(10)
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


def added(world: World, model: ModelConfig) -> list[str]:
    """The failures of adding a model."""
    resolution = world.reloader.add(model)
    assert resolution.wait(10)
    return [str(failure) for failure in resolution.failures]


def origins(world: World) -> dict[str, str]:
    return {listed.model.name: listed.origin.name for listed in world.reloader.listed}


def test_single_models_come_and_go(world: World) -> None:
    world.start(A)
    assert added(world, B) == []
    assert world.states("b") == {1: "AVAILABLE"}
    assert added(world, B) == []  # again does no harm
    assert origins(world) == {"a": "FLAGS", "b": "ADMIN"}
    world.reloader.remove("b")
    world.reloader.remove("a")
    assert world.reloader.models == ()
    error = failure(lambda: world.reloader.remove("a"))
    assert error.status == "NOT_FOUND: Model a is not configured"


def test_a_model_that_does_not_load_is_told_and_stays_configured(world: World) -> None:
    world.start(A)
    world.broken.add("/b/1")
    assert added(world, B) == ["{{name: b version: 1} due to error: NOT_FOUND: broken}"]
    assert added(world, ModelConfig("c", "/nowhere")) == [
        "{{name: c} due to error: NOT_FOUND: no version was found under its base path}"
    ]
    assert origins(world) == {"a": "FLAGS", "b": "ADMIN", "c": "ADMIN"}


@pytest.mark.parametrize(
    "model",
    [
        ModelConfig("", "/b"),
        ModelConfig("b", "b"),
        ModelConfig("b", "/b", "other"),
        ModelConfig("a", "/a", "other"),
        ModelConfig("b", "/b", labels={"stable": 1}),
    ],
)
def test_a_model_that_is_refused_changes_nothing(world: World, model: ModelConfig) -> None:
    world.start(A)
    failure(lambda: world.reloader.add(model))
    assert origins(world) == {"a": "FLAGS"}


def test_labels_are_moved_one_by_one(world: World) -> None:
    world.folders["/a"] = ["1", "2"]
    world.start(ModelConfig("a", "/a", policy=All()))
    world.reloader.reload([ModelConfig("a", "/a", policy=All(), labels={"old": 1})])
    world.reloader.label("a", "stable", 2)
    assert world.manager.routes["a"].labels == {"old": 1, "stable": 2}  # published when the call returns
    assert failure(lambda: world.reloader.label("a", "stable", 3)).code == "FAILED_PRECONDITION"
    world.reloader.label("a", "old", None)
    assert world.manager.routes["a"].labels == {"stable": 2}
    assert failure(lambda: world.reloader.label("a", "old", None)).code == "NOT_FOUND"
    assert failure(lambda: world.reloader.label("b", "x", 1)).code == "NOT_FOUND"


def test_a_label_whose_version_has_gone_does_not_keep_others_from_changing(world: World) -> None:
    world.folders["/a"] = ["1", "2"]
    world.start(ModelConfig("a", "/a", policy=All()))
    world.reloader.label("a", "stable", 1)
    world.folders["/a"] = ["2"]
    world.source.scan()
    world.reloader.label("a", "canary", 2)
    assert added(world, B) == []
    world.reloader.reload([ModelConfig("a", "/a", policy=All()), ModelConfig("c", "/b")])
    assert world.manager.routes["a"].labels == {"stable": 1, "canary": 2}


def test_the_file_keeps_what_was_changed_and_the_rpc_does_not(world: World) -> None:
    world.start(A)
    added(world, B)
    world.reloader.remove("a")
    world.reloader.reload([A, ModelConfig("c", "/a")], Origin.CONFIG_FILE)
    assert origins(world) == {"b": "ADMIN", "c": "CONFIG_FILE"}
    world.reloader.reload([A], Origin.RELOAD)
    assert origins(world) == {"a": "RELOAD"}


def test_a_wait_for_one_model_keeps_no_other_from_changing() -> None:
    world = World({"/a": ["1"], "/slow": ["1"]}, loads=ThreadPool("load", 1))
    world.start(A)
    world.held.clear()
    waiting = world.reloader.add(ModelConfig("slow", "/slow"))
    world.reloader.remove("slow")
    assert origins(world) == {"a": "FLAGS"}
    world.held.set()
    assert waiting.wait(10)


def test_changes_survive_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "state"

    def restarted() -> World:
        return World({"/a": ["1"], "/b": ["1"]}, state=StateFile(str(path), FakeCodec()))

    world = restarted()
    world.start(A)
    added(world, B)
    world.reloader.label("a", "stable", 1)
    world.reloader.label("b", "stable", 1)
    for _ in range(2):
        world = restarted()
        world.start(A)
        assert origins(world) == {"a": "FLAGS", "b": "ADMIN"}
        assert [dict(model.labels) for model in world.reloader.models] == [{"stable": 1}, {"stable": 1}]
    world.reloader.reload([A], Origin.RELOAD)
    world = restarted()
    world.start(A)
    assert origins(world) == {"a": "FLAGS"}


def test_an_added_model_that_does_not_load_any_more_does_not_hurt_the_restart(tmp_path: Path) -> None:
    path = tmp_path / "state"
    world = World({"/a": ["1"], "/b": ["1"]}, state=StateFile(str(path), FakeCodec()))
    world.start(A)
    added(world, B)
    world = World({"/a": ["1"]}, state=StateFile(str(path), FakeCodec()))
    started = world.reloader.start([A])
    assert started.configured.wait(10)
    assert started.restored.wait(10)
    assert started.configured.failures == ()
    assert [failure.name for failure in started.restored.failures] == ["b"]


def test_what_cannot_be_kept_is_not_done(tmp_path: Path) -> None:
    world = World({"/a": ["1"], "/b": ["1"]}, state=StateFile(str(tmp_path / "state"), FakeCodec()))
    world.start(A)
    (tmp_path / "state.new").mkdir()
    assert "cannot be written, so nothing was changed" in failure(lambda: world.reloader.add(B)).message
    assert "cannot be written, so nothing was changed" in failure(lambda: world.reloader.remove("a")).message
    assert origins(world) == {"a": "FLAGS"}


def test_relative_paths_lie_in_the_root() -> None:
    world = World({"/root/a": ["1"], "/b": ["1"]}, root="/root/")
    world.start(ModelConfig("a", "a"))
    assert added(world, ModelConfig("b", "/b")) == []
    assert [model.base_path for model in world.reloader.models] == ["/root/a", "/b"]
    assert not world.reloader.is_news([ModelConfig("a", "a")])


def test_a_log_that_cannot_be_changes_nothing() -> None:
    committed: list[list[str]] = []

    def prepare(models: Sequence[ModelConfig]) -> Callable[[], None]:
        if any(model.logging == {"bad": 1} for model in models):
            raise InvalidArgumentError("no")
        return lambda: committed.append([model.name for model in models])

    world = World({"/a": ["1"]}, prepare_log=prepare)
    world.start(A)
    error = failure(lambda: world.reloader.reload([replace(A, logging={"bad": 1})]))
    assert (error.code, world.reloader.models, committed) == ("INVALID_ARGUMENT", (A,), [["a"]])


def test_no_labels_where_labels_are_off() -> None:
    world = World({"/a": ["1"]}, labels=LabelRule.NONE)
    world.start(A)
    error = failure(lambda: world.reloader.label("a", "stable", 1))
    assert error.message == "Model version labels are not currently allowed by the server."


def test_labels_at_start_need_the_flag() -> None:
    labelled = ModelConfig("a", "/a", labels={"stable": 1})
    with pytest.raises(FailedPreconditionError):
        World({"/a": ["1"]}).start(labelled)
    World({"/a": ["1"]}, labels=LabelRule.NEW).start(labelled)


def request(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def test_the_rpc_answers_with_a_metric_per_name(world: World) -> None:
    world.start(A)
    message = {"model_config_list": {"config": [{"name": "b", "base_path": "/b", "model_platform": "tensorflow"}]}}
    pages = iter([":a:b_c{} 5\nx{} 7\n", ":a:b_c{} 8\nx{} 7\n"])
    names = ["x", "/a/b-c", "x", "unknown"]
    answer = answer_reload(
        request(config=message, metric_names=names), world.reloader, FakeCodec(), lambda: next(pages)
    )
    assert json.loads(answer) == {
        "status": {},
        "metric": [
            {"name": "x", "int64_value_increase": 0},
            {"name": "/a/b-c", "int64_value_increase": 3},
            {"name": "unknown", "int64_value_increase": 0},
        ],
    }
    assert world.reloader.models == (B,)


@pytest.mark.parametrize("fields", [{}, {"config": {}}, {"config": {"custom_model_config": {"@type": "x"}}}])
def test_the_rpc_wants_a_list(world: World, fields: dict[str, Any]) -> None:
    error = failure(lambda: answer_reload(request(**fields), world.reloader, FakeCodec(), str))
    assert error.code == "INVALID_ARGUMENT"
    assert "Only ModelConfigList is currently supported" in error.message


def test_unavailable_models_in_the_words_of_tensorflow_serving() -> None:
    assert unavailable("servable(s)", []).status == "UNKNOWN: 0 servable(s) did not become available: {}"


def test_the_watched_file_is_applied_when_it_changes(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.start(A)
    contents = iter([[A], [A, B], [A, B], None, None, [B], [B]])
    seen = []

    def read() -> list[ModelConfig] | None:
        seen.append(world.reloader.models)
        return next(contents)

    looks = iter([*[Look.PERIODIC] * 6, Look.ASKED, Look.NONE])
    watch_config_file(read, world.reloader, lambda: next(looks))
    assert [len(models) for models in seen] == [1, 1, 2, 2, 2, 2, 1]
    assert world.reloader.models == (B,)
    complaints = [record.message for record in caplog.records if "failed to ReloadConfig" in record.message]
    assert len(complaints) == 1


def test_the_file_is_watched_whatever_happens(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.start(A)
    contents = iter([None, [B]])

    def read() -> list[ModelConfig]:
        models = next(contents)
        if models is None:
            raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
        return models

    looks = iter([Look.PERIODIC, Look.PERIODIC, Look.NONE])
    watch_config_file(read, world.reloader, lambda: next(looks))
    assert world.reloader.models == (B,)
    assert "failed to ReloadConfig: UnicodeDecodeError: " in caplog.text
