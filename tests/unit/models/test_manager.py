from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

import pytest
from servable.errors import FailedPreconditionError, NotFoundError, ServableError
from servable.models.loader import Loader
from servable.models.manager import MAX_ENDED_VERSIONS, Manager, Resolution, Retries
from servable.models.source import Aspired
from servable.types import ModelRoutes

from tests.unit.fakes import FakeClock, FakePool, FakeServable, statuses


class World:
    """A manager with everything around it faked. `events` has what happened, in order."""

    def __init__(self, retries: int = 0) -> None:
        self.events: list[str] = []
        self.errors: dict[str, ServableError] = {}
        self.while_loading: Callable[[], None] = lambda: None
        self.clock = FakeClock()
        self.loads = FakePool()
        self.unloads = FakePool()
        self.routes: Mapping[str, ModelRoutes] = {}
        self.manager = Manager(
            make_loader=lambda name, goal: cast(Loader, FakeLoader(self, name, goal)),
            publish=self.publish,
            loads=self.loads,
            unloads=self.unloads,
            retries=Retries(retries, 60.0),
            clock=self.clock,
        )

    def publish(self, routes: Mapping[str, ModelRoutes]) -> None:
        self.routes = routes
        for name in sorted(routes):
            for version in reversed(routes[name].versions):
                mark = "*" if version.servable else ""
                self.events.append(f"{name}/{version.version} {version.state}{mark}")

    def aspire(self, *versions: int, name: str = "m", path: str = "/m") -> None:
        self.manager.aspire({name: [Aspired(version, f"{path}/{version}") for version in versions]})
        self.manager.process()

    def work(self) -> None:
        """Run all jobs, and those that follow from them."""
        while self.loads.jobs or self.unloads.jobs:
            for pool in (self.loads, self.unloads):
                while pool.jobs:
                    pool.run_next()
            self.manager.process()

    def load_one(self) -> None:
        self.loads.run_next()
        self.manager.process()

    def watch(self, *names: str) -> Resolution:
        resolution = self.manager.watch(names, patient=True)
        self.manager.process()
        return resolution

    def states(self, name: str = "m") -> dict[int, str]:
        return statuses(self.routes, name)


class FakeLoader:
    def __init__(self, world: World, name: str, goal: Aspired) -> None:
        self._world, self._name, self._goal = world, name, goal

    def load(self) -> FakeServable:
        self._world.events.append(f"load {self._name}/{self._goal.version}")
        self._world.while_loading()
        error = self._world.errors.get(self._goal.path)
        if error is not None:
            raise error
        return FakeServable(self._name, self._goal.version, self._world.events)


@pytest.fixture
def world() -> World:
    return World()


def test_a_version_is_available_when_requests_reach_it(world: World) -> None:
    world.aspire(1)
    world.work()
    assert world.events == ["m/1 LOADING", "load m/1", "m/1 AVAILABLE*"]


def test_old_version_stays_until_new_is_ready(world: World) -> None:
    world.aspire(1)
    world.work()
    world.events.clear()
    world.aspire(2)
    world.work()
    assert world.events == [
        *("m/1 AVAILABLE*", "m/2 LOADING", "load m/2"),
        *("m/1 UNLOADING", "m/2 AVAILABLE*", "unload m/1"),
        *("m/1 END", "m/2 AVAILABLE*"),
    ]


def test_old_version_stays_when_new_one_fails(world: World) -> None:
    world.aspire(1)
    world.work()
    world.errors["/m/2"] = NotFoundError("nothing there")
    world.aspire(2)
    world.work()
    assert world.states() == {1: "AVAILABLE", 2: "END"}
    failed = world.routes["m"].versions[0]
    assert (failed.error_code, failed.error_message) == ("NOT_FOUND", "nothing there")


def test_no_request_reaches_a_version_that_is_unloaded(world: World) -> None:
    world.aspire(1)
    world.work()
    world.aspire()
    assert world.events[-1] == "m/1 UNLOADING"
    world.work()
    assert world.events[-2:] == ["unload m/1", "m/1 END"]


def test_versions_load_at_the_same_time(world: World) -> None:
    world.aspire(1, 2, 3)
    assert len(world.loads.jobs) == 3
    assert world.states() == {3: "LOADING", 2: "LOADING", 1: "LOADING"}


def test_models_do_not_wait_for_one_another(world: World) -> None:
    world.aspire(1, name="a", path="/a")
    world.aspire(1, name="b", path="/b")
    assert len(world.loads.jobs) == 2
    world.load_one()
    assert (world.states("a"), world.states("b")) == ({1: "AVAILABLE"}, {1: "LOADING"})


def test_saying_the_same_again_changes_nothing(world: World) -> None:
    world.aspire(1)
    world.work()
    world.events.clear()
    world.aspire(1)
    world.work()
    assert world.events == []


def test_a_failed_load_is_tried_again_after_the_interval() -> None:
    world = World(retries=2)
    world.errors["/m/1"] = NotFoundError("not yet")
    world.aspire(1)
    world.work()
    assert world.states() == {1: "LOADING"}
    world.clock.now = 59.9
    world.manager.process()
    assert not world.loads.jobs
    world.clock.now = 60.0
    world.manager.process()
    del world.errors["/m/1"]
    world.work()
    assert world.states() == {1: "AVAILABLE"}
    assert world.routes["m"].versions[0].error_code == "OK"


def test_retries_end() -> None:
    world = World(retries=2)
    world.errors["/m/1"] = NotFoundError("never")
    world.aspire(1)
    for _ in range(5):
        world.work()
        world.clock.now += 60
        world.manager.process()
    assert world.events.count("load m/1") == 3
    assert world.states() == {1: "END"}


def test_a_permanent_error_is_not_tried_again() -> None:
    world = World(retries=5)
    world.errors["/m/1"] = FailedPreconditionError("pip install it")
    world.aspire(1)
    world.work()
    assert world.states() == {1: "END"}


def test_a_retry_is_cancelled_when_the_version_is_not_wanted_any_more() -> None:
    world = World(retries=5)
    world.errors["/m/1"] = NotFoundError("not yet")
    world.aspire(1)
    world.work()
    world.aspire()
    world.clock.now = 1000
    world.manager.process()
    assert not world.loads.jobs
    assert world.states() == {1: "END"}
    assert world.routes["m"].versions[0].error_code == "NOT_FOUND"


def test_a_load_that_has_not_begun_is_cancelled(world: World) -> None:
    world.aspire(1)
    world.aspire()
    world.work()
    assert world.events == ["m/1 LOADING", "m/1 END"]
    assert world.routes["m"].versions[0].error_code == "CANCELLED"


def test_a_cancelled_load_never_serves(world: World) -> None:
    world.while_loading = lambda: world.manager.aspire({"m": []})
    world.aspire(1)
    world.work()
    assert world.events == ["m/1 LOADING", "load m/1", "m/1 UNLOADING", "unload m/1", "m/1 END"]
    ended = world.routes["m"].versions[0]
    assert (ended.error_code, ended.error_message) == ("CANCELLED", "Loading of servable cancelled")


def test_a_load_goes_on_when_its_version_is_wanted_again(world: World) -> None:
    world.aspire(1)
    world.aspire()
    world.aspire(1)
    world.work()
    assert world.states() == {1: "AVAILABLE"}
    assert world.events.count("load m/1") == 1


def test_a_failed_version_is_left_alone_while_it_is_wanted(world: World) -> None:
    world.errors["/m/1"] = NotFoundError("broken")
    world.aspire(1)
    world.work()
    del world.errors["/m/1"]
    world.aspire(1)
    assert not world.loads.jobs


@pytest.mark.parametrize("in_between", [(), (2,)])
def test_a_failed_version_is_tried_when_it_was_away(world: World, in_between: tuple[int, ...]) -> None:
    world.errors["/m/1"] = NotFoundError("broken")
    world.aspire(1)
    world.work()
    del world.errors["/m/1"]
    world.aspire(*in_between)
    world.aspire(1)
    world.work()
    assert world.states()[1] == "AVAILABLE"


def test_a_failed_version_is_tried_from_another_path(world: World) -> None:
    world.errors["/m/1"] = NotFoundError("broken")
    world.aspire(1)
    world.work()
    world.aspire(1, path="/elsewhere")
    world.work()
    assert world.states() == {1: "AVAILABLE"}


def test_a_broken_newest_version_can_be_mended_while_the_old_one_serves(world: World) -> None:
    world.aspire(1)
    world.work()
    world.errors["/m/2"] = NotFoundError("broken")
    world.aspire(2)
    world.work()
    world.aspire(1)
    world.work()
    assert world.states() == {1: "AVAILABLE", 2: "END"}
    del world.errors["/m/2"]
    world.aspire(2)
    world.work()
    assert world.states() == {1: "END", 2: "AVAILABLE"}


def test_a_version_wanted_again_while_it_unloads_is_loaded_afterwards(world: World) -> None:
    world.aspire(1)
    world.work()
    world.aspire()
    world.aspire(1)
    assert world.states() == {1: "UNLOADING"}
    world.work()
    assert world.states() == {1: "AVAILABLE"}
    assert world.events.count("load m/1") == 2


def test_labels_are_published_with_their_model(world: World) -> None:
    world.aspire(1)
    world.manager.label({"m": {"stable": 1}, "other": {"x": 2}})
    world.manager.process()
    assert world.routes["m"].labels == {"stable": 1}


def test_ended_versions_are_forgotten_at_last(world: World) -> None:
    total = MAX_ENDED_VERSIONS + 2
    for version in range(1, total + 1):
        world.errors[f"/m/{version}"] = NotFoundError("broken")
        world.aspire(version)
        world.work()
    world.aspire()
    assert list(world.states()) == list(range(total, 2, -1))


def test_closing_unloads_everything_and_takes_on_nothing(world: World) -> None:
    world.aspire(1, 2)
    world.work()
    closed = world.manager.close()
    world.aspire(3)
    assert not closed.is_set()
    world.work()
    assert closed.is_set()
    assert world.states() == {1: "END", 2: "END"}


def test_an_error_that_is_a_bug_ends_the_version_too(world: World) -> None:
    world.errors["/m/1"] = cast(ServableError, ZeroDivisionError("oops"))
    world.aspire(1)
    world.work()
    failed = world.routes["m"].versions[0]
    assert (failed.error_code, failed.error_message) == ("INTERNAL", "ZeroDivisionError: oops")


def test_no_models_are_resolved_at_once(world: World) -> None:
    assert world.watch().wait(0)


def test_a_model_without_versions_is_not_resolved(world: World) -> None:
    resolution = world.watch("m")
    assert not resolution.wait(0)
    world.aspire(1)
    world.work()
    assert resolution.wait(0)
    assert resolution.failures == ()


def test_without_patience_a_model_without_versions_has_failed(world: World) -> None:
    world.aspire(1)
    resolution = world.manager.watch(["m"], patient=False)
    world.manager.process()
    assert not resolution.wait(0)
    world.aspire()
    assert [str(failure) for failure in resolution.failures] == [
        "{{name: m} due to error: NOT_FOUND: no version was found under its base path}"
    ]


def test_a_failure_resolves_and_is_told(world: World) -> None:
    world.errors["/m/1"] = NotFoundError("broken")
    world.aspire(1)
    resolution = world.watch("m")
    assert not resolution.wait(0)
    world.work()
    assert resolution.wait(0)
    assert [str(failure) for failure in resolution.failures] == [
        "{{name: m version: 1} due to error: NOT_FOUND: broken}"
    ]


def test_one_available_version_is_enough(world: World) -> None:
    world.errors["/m/2"] = NotFoundError("broken")
    world.aspire(1, 2)
    resolution = world.watch("m")
    world.load_one()
    assert not resolution.wait(0)
    world.load_one()
    assert resolution.wait(0)
    assert resolution.failures == ()


def test_an_end_from_an_earlier_life_does_not_count(world: World) -> None:
    world.errors["/m/1"] = NotFoundError("broken")
    world.aspire(1)
    world.work()
    world.aspire()
    world.aspire(1)
    resolution = world.watch("m")
    assert not resolution.wait(0)
    world.errors.clear()
    world.work()
    assert resolution.wait(0)
    assert resolution.failures == ()
