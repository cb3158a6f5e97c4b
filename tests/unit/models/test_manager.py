from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import pytest
from servable.config.batching import BatchingParameters
from servable.config.model_config import ModelConfig, Transition
from servable.errors import FailedPreconditionError, IncompleteError, NotFoundError, ServableError
from servable.models.loader import Loader, Prepared
from servable.models.manager import (
    LEAST_STAY_S,
    LONGEST_INCOMPLETE_S,
    MAX_ENDED_MODELS,
    MAX_ENDED_VERSIONS,
    Keeping,
    Manager,
    Outside,
    Pools,
    Retries,
)
from servable.models.memory import Memory
from servable.models.resolution import Resolution
from servable.models.source import Aspired
from servable.types import ModelRoutes

from tests.unit.fakes import FakeClock, FakePool, FakeServable, statuses


class World:
    """A manager with everything around it faked. `events` has what happened, in order."""

    def __init__(
        self, retries: int = 0, *, interval_s: float = 60.0, limit: int = 0, usual: Keeping | None = None
    ) -> None:
        self.events: list[str] = []
        self.prepared: list[Aspired] = []
        self.errors: dict[str, ServableError] = {}
        self.while_preparing: Callable[[], None] = lambda: None
        self.while_loading: Callable[[], None] = lambda: None
        self.when_released: Callable[[], None] = lambda: None
        self.clock = FakeClock()
        self.fetches = FakePool()
        self.loads = FakePool()
        self.unloads = FakePool()
        self.routes: Mapping[str, ModelRoutes] = {}
        self.incomplete: set[str] = set()
        self.sizes: dict[str, int] = {}
        self.stamps: dict[str, str] = {}
        self.idle: dict[str, float] = {}
        self.free: dict[str, int] = {}
        self.manager = Manager(
            Outside(self.prepare, self.publish, stamp=lambda path: self.stamps.get(path, ""), clock=self.clock),
            Pools(lambda path: self.fetches, self.loads, self.unloads),
            retries=Retries(retries, interval_s),
            memory=Memory({"ram": limit} if limit else {}, lambda: self.free),
            usual=usual,
        )

    def prepare(self, name: str, goal: Aspired) -> Prepared:
        if goal.path in self.incomplete:
            raise IncompleteError("half of it", retry_after_s=0.5)
        self.prepared.append(goal)
        hook, self.while_preparing = self.while_preparing, lambda: None
        hook()
        loader = cast(Loader, FakeLoader(self, name, goal))

        def release() -> None:
            self.events.append(f"release {goal.path}")
            self.when_released()

        return Prepared(loader, {"ram": self.sizes.get(goal.path, 0)}, release=release)

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
        while self.fetches.jobs or self.loads.jobs or self.unloads.jobs:
            self.fetch()
            for pool in (self.loads, self.unloads):
                while pool.jobs:
                    pool.run_next()
            self.manager.process()

    def fetch(self) -> None:
        """Bring everything that is to be brought."""
        while self.fetches.jobs:
            self.fetches.run_next()
        self.manager.process()

    def load_one(self) -> None:
        self.fetch()
        self.loads.run_next()
        self.manager.process()

    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds
        self.manager.process()

    def take(self, amount: int) -> None:
        """Leave less memory free."""
        self.free["ram"] -= amount

    def watch(self, *names: str) -> Resolution:
        resolution = self.manager.watch(names, patient=True)
        self.manager.process()
        return resolution

    def configure(self, *models: ModelConfig) -> None:
        self.manager.configure(models)
        self.manager.process()

    def ask_for(self, version: int, name: str = "m") -> None:
        self.manager.ask_for(name, version)
        self.manager.process()

    def waited_for(self, name: str = "m") -> set[int]:
        """The versions that a request would wait for."""
        return {
            version.version for version in self.routes[name].versions if version.on_demand and version.servable is None
        }

    def error(self, version: int, name: str = "m") -> tuple[str, str]:
        (found,) = [known for known in self.routes[name].versions if known.version == version]
        return found.error_code, found.error_message

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
        return FakeServable(self._name, self._goal.version, self._world.events, self._world.idle)


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
        *("m/1 UNLOADING", "m/2 AVAILABLE*", "unload m/1", "release /m/1"),
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
    assert world.events[-3:] == ["unload m/1", "release /m/1", "m/1 END"]


def test_versions_load_at_the_same_time(world: World) -> None:
    world.aspire(1, 2, 3)
    world.fetch()
    assert len(world.loads.jobs) == 3
    assert world.states() == {3: "LOADING", 2: "LOADING", 1: "LOADING"}


def test_models_do_not_wait_for_one_another(world: World) -> None:
    world.aspire(1, name="a", path="/a")
    world.aspire(1, name="b", path="/b")
    world.fetch()
    assert len(world.loads.jobs) == 2
    world.load_one()
    assert (world.states("a"), world.states("b")) == ({1: "AVAILABLE"}, {1: "LOADING"})


def test_what_gets_no_thread_is_submitted_again(world: World) -> None:
    world.fetches.has_threads = False
    resolution = world.watch("a", "b")
    world.aspire(1, name="a", path="/a")
    world.aspire(1, name="b", path="/b")
    assert not world.fetches.jobs
    world.fetches.has_threads = True
    world.pass_time(1)
    world.work()
    assert (world.states("a"), world.states("b")) == ({1: "AVAILABLE"}, {1: "AVAILABLE"})
    assert resolution.wait(0)


def test_saying_the_same_again_changes_nothing(world: World) -> None:
    world.aspire(1)
    world.work()
    world.events.clear()
    world.aspire(1)
    world.work()
    assert world.events == []


def test_a_failed_load_is_tried_again_after_intervals_that_double() -> None:
    world = World(retries=6)
    world.errors["/m/1"] = NotFoundError("not yet")
    world.aspire(1)
    for pause in (3.75, 7.5, 15.0, 30.0, 60.0, 60.0):
        world.work()
        assert world.states() == {1: "LOADING"}
        world.pass_time(pause - 0.01)
        assert not world.fetches.jobs
        world.pass_time(0.01)
        assert world.fetches.jobs, pause
    del world.errors["/m/1"]
    world.work()
    assert world.states() == {1: "AVAILABLE"}
    assert world.error(1)[0] == "OK"


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


@pytest.mark.parametrize("code", ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "PERMISSION_DENIED"])
def test_an_outage_is_waited_for_as_long_as_the_version_is_wanted(code: str) -> None:
    world = World(retries=1)
    world.errors["/m/1"] = ServableError("the store is away", code=code)
    world.aspire(1)
    for pause in (3.75, 60, 60, 60):
        world.work()
        world.pass_time(pause)
    assert world.events.count("load m/1") == 4
    world.work()
    assert world.states() == {1: "END"}
    assert world.error(1) == (code, "the store is away")
    world.aspire()
    world.pass_time(60)
    assert not world.fetches.jobs
    world.aspire(1)
    del world.errors["/m/1"]
    world.work()
    assert world.states() == {1: "AVAILABLE"}


def test_an_outage_keeps_nobody_busy_where_retries_do_not_wait() -> None:
    world = World(retries=0, interval_s=0)
    world.errors["/m/1"] = ServableError("the store is away", code="UNAVAILABLE")
    world.aspire(1)
    world.work()
    world.pass_time(0.9)
    assert world.states() == {1: "END"}
    del world.errors["/m/1"]
    world.pass_time(0.1)
    world.work()
    assert world.states() == {1: "AVAILABLE"}


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
    world.pass_time(1000)
    assert not world.fetches.jobs
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
    assert world.events == ["m/1 LOADING", "load m/1", "m/1 UNLOADING", "unload m/1", "release /m/1", "m/1 END"]
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
    assert not world.fetches.jobs


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
    world.configure(ModelConfig("m", "/m", labels={"stable": 1}), ModelConfig("other", "/other", labels={"x": 2}))
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


def test_the_hasty_wait_for_one_attempt() -> None:
    world = World(retries=5)
    world.errors["/m/1"] = NotFoundError("broken")
    world.incomplete.add("/n/1")
    for name in "mn":
        world.aspire(1, name=name, path=f"/{name}")
    hasty, other = (world.manager.watch("mn", patient=False, hasty=is_hasty) for is_hasty in (True, False))
    world.manager.process()
    assert not hasty.wait(0)
    world.work()
    assert hasty.wait(0)
    assert [(failure.name, failure.error.message) for failure in hasty.failures] == [
        ("m", "broken"),
        ("n", "half of it"),
    ]
    assert not other.wait(0)


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


def test_a_version_that_is_not_complete_is_looked_at_again_and_again() -> None:
    world = World()
    world.incomplete.add("/m/1")
    world.aspire(1)
    resolution = world.watch("m")
    for _ in range(20):
        world.work()
        assert world.states() == {1: "LOADING"}
        world.pass_time(0.5)
    assert not resolution.wait(0)
    world.incomplete.clear()
    world.work()
    assert world.states() == {1: "AVAILABLE"}
    assert world.events.count("load m/1") == 1


def test_what_is_not_complete_and_not_wanted_any_more_ends(world: World) -> None:
    world.incomplete.add("/m/1")
    world.aspire(1)
    world.work()
    world.aspire()
    world.pass_time(1)
    assert world.states() == {1: "END"}
    assert not world.fetches.jobs


def test_a_failed_version_is_told_with_what_its_files_looked_like(world: World) -> None:
    world.errors["/m/1"] = NotFoundError("broken")
    world.stamps["/m/1"] = "as it was"
    world.aspire(1)
    world.work()
    assert [(failed.name, failed.goal.version, failed.stamp) for failed in world.manager.failed] == [
        ("m", 1, "as it was")
    ]
    del world.errors["/m/1"]
    world.manager.retry("m", 1)
    world.manager.process()
    world.work()
    assert world.states() == {1: "AVAILABLE"}
    assert world.manager.failed == ()


def test_a_changed_version_does_not_wait_for_its_next_attempt() -> None:
    world = World(retries=5)
    world.errors["/m/1"] = NotFoundError("broken")
    world.aspire(1)
    world.work()
    assert len(world.manager.failed) == 1
    del world.errors["/m/1"]
    world.manager.retry("m", 1)
    world.manager.process()
    world.work()
    assert world.states() == {1: "AVAILABLE"}


@pytest.mark.parametrize("version", [1, 2])
def test_nothing_is_tried_again_that_has_not_failed(world: World, version: int) -> None:
    world.aspire(1)
    world.work()
    world.events.clear()
    world.manager.retry("m", version)
    world.manager.process()
    world.work()
    assert world.events == []


def test_a_model_can_be_unloaded_before_it_is_loaded_again(world: World) -> None:
    world.configure(ModelConfig("m", "/m", transition=Transition.RESOURCE_PRESERVING))
    world.aspire(1)
    world.work()
    world.events.clear()
    world.aspire(2)
    world.work()
    assert world.events == [
        *("m/1 AVAILABLE*", "m/2 LOADING", "m/1 UNLOADING", "m/2 LOADING", "unload m/1", "release /m/1"),
        *("m/1 END", "m/2 LOADING", "load m/2", "m/1 END", "m/2 AVAILABLE*"),
    ]


def test_models_that_are_gone_are_forgotten_at_last(world: World) -> None:
    names = [f"m{number}" for number in range(MAX_ENDED_MODELS + 2)]
    for name in names:
        world.aspire(1, name=name)
    world.work()
    for name in names:
        world.aspire(name=name)
    world.work()
    assert len(world.routes) == MAX_ENDED_MODELS


class TestMemory:
    def test_what_does_not_fit_is_refused_and_says_why(self) -> None:
        world = World(retries=5, limit=100)
        world.sizes = {"/m/1": 60, "/m/2": 60}
        world.aspire(1)
        world.work()
        world.aspire(2)
        world.work()
        assert world.states() == {1: "AVAILABLE", 2: "END"}
        code, message = world.error(2)
        assert code == "RESOURCE_EXHAUSTED"
        assert message.startswith(
            "Insufficient resources to load servable {name: m version: 2}: it takes about 60 bytes of ram; "
            "60 bytes of at most 100 bytes are taken"
        )
        assert "RESOURCE_PRESERVING, version 1 would be unloaded first" in message

    def test_what_was_refused_is_loaded_when_there_is_room(self) -> None:
        world = World(limit=100)
        world.sizes = {"/a/1": 60, "/b/1": 60}
        world.aspire(1, name="a", path="/a")
        world.work()
        world.aspire(1, name="b", path="/b")
        world.work()
        assert world.states("b") == {1: "END"}
        world.aspire(name="a")
        world.work()
        assert world.states("b") == {1: "AVAILABLE"}

    def test_a_load_waits_for_memory_that_is_being_given_back(self) -> None:
        world = World(limit=100, usual=Keeping(transition=Transition.RESOURCE_PRESERVING))
        world.sizes = {"/a/1": 60, "/b/1": 60}
        world.aspire(1, name="a", path="/a")
        world.work()
        world.aspire(name="a")
        world.aspire(1, name="b", path="/b")
        world.fetch()
        assert world.states("b") == {1: "LOADING"}
        assert not world.loads.jobs
        world.work()
        assert world.states("b") == {1: "AVAILABLE"}

    def test_no_version_goes_for_one_that_will_not_fit(self) -> None:
        world = World(limit=100, usual=Keeping(transition=Transition.RESOURCE_PRESERVING))
        world.sizes = {"/m/1": 40, "/m/2": 400, "/m/3": 100}
        world.aspire(1)
        world.work()
        world.aspire(2)
        for _ in range(2):
            world.work()
            assert world.states() == {1: "AVAILABLE", 2: "END"}
            assert world.error(2)[0] == "RESOURCE_EXHAUSTED"
            world.pass_time(60)
        world.aspire(3)
        world.work()
        assert world.states() == {1: "END", 2: "END", 3: "AVAILABLE"}

    def test_no_version_goes_for_one_that_may_not_fit_when_others_are_loaded(self) -> None:
        world = World(limit=100, usual=Keeping(transition=Transition.RESOURCE_PRESERVING))
        world.sizes = {"/m/1": 40, "/m/2": 60, "/n/1": 50}
        world.aspire(1)
        world.work()
        world.aspire(1, name="n", path="/n")
        world.fetch()
        world.aspire(2)
        world.fetch()
        assert world.states() == {1: "AVAILABLE", 2: "LOADING"}
        world.work()
        assert world.states() == {1: "AVAILABLE", 2: "END"}
        assert world.states("n") == {1: "AVAILABLE"}

    def test_nobody_takes_the_room_that_a_version_makes_for_its_successor(self) -> None:
        world = World(limit=100, usual=Keeping(transition=Transition.RESOURCE_PRESERVING))
        world.sizes = {"/m/1": 60, "/m/2": 60, "/n/1": 60}
        world.aspire(1)
        world.work()
        world.aspire(2)
        world.fetch()
        assert world.states() == {1: "UNLOADING", 2: "LOADING"}
        world.aspire(1, name="n", path="/n")
        world.work()
        assert world.states() == {1: "END", 2: "AVAILABLE"}
        assert world.error(1, "n")[0] == "RESOURCE_EXHAUSTED"

    def test_models_change_their_versions_one_after_the_other_where_memory_is_short(self) -> None:
        world = World(limit=100, usual=Keeping(transition=Transition.RESOURCE_PRESERVING))
        world.sizes = dict.fromkeys(["/m/1", "/m/2", "/n/1", "/n/2"], 50)
        for number in (1, 2):
            for name in "mn":
                world.aspire(number, name=name, path=f"/{name}")
            world.work()
        assert world.states("m") == world.states("n") == {1: "END", 2: "AVAILABLE"}

    @pytest.mark.parametrize(
        ("given_back", "outcome"),
        [
            (80, {3: "AVAILABLE", 2: "AVAILABLE", 1: "END"}),
            (69, {3: "AVAILABLE", 2: "END", 1: "END"}),
            (29, {3: "END", 2: "END", 1: "END"}),
        ],
    )
    def test_versions_that_wait_for_an_old_one_do_not_wait_for_one_another(
        self, given_back: int, outcome: Mapping[int, str]
    ) -> None:
        world = World(usual=Keeping(transition=Transition.RESOURCE_PRESERVING))
        world.sizes = {"/m/1": 80, "/m/2": 40, "/m/3": 40}
        world.aspire(1)
        world.work()
        world.free["ram"] = 10
        world.aspire(2, 3)
        world.fetch()
        assert world.states() == {3: "LOADING", 2: "LOADING", 1: "UNLOADING"}
        world.free["ram"] += given_back
        world.while_loading = lambda: world.take(40)
        world.work()
        assert world.states() == outcome

    @pytest.mark.parametrize(
        ("given_back", "outcome"),
        [(40, ["AVAILABLE", "AVAILABLE"]), (35, ["AVAILABLE", "AVAILABLE"]), (30, ["AVAILABLE", "END"])],
    )
    def test_models_that_change_in_one_reload_do_not_wait_for_one_another(
        self, given_back: int, outcome: Sequence[str]
    ) -> None:
        world = World(usual=Keeping(transition=Transition.RESOURCE_PRESERVING))
        world.sizes = dict.fromkeys(["/a/1", "/a/2", "/b/1", "/b/2"], 40)
        for number in (1, 2):
            world.manager.aspire({name: [Aspired(number, f"/{name}/{number}")] for name in "ab"})
            world.manager.process()
            if number == 1:
                world.work()
                world.free["ram"] = 10
        world.when_released = lambda: world.take(-given_back)
        world.while_loading = lambda: world.take(40)
        world.work()
        assert sorted(world.states(name)[2] for name in "ab") == outcome

    def test_no_version_is_refused_for_room_that_an_old_one_is_about_to_make(self) -> None:
        world = World(usual=Keeping(transition=Transition.RESOURCE_PRESERVING))
        world.sizes = {"/a/1": 80, "/a/2": 40, "/b/1": 40, "/b/2": 60}
        for number in (1, 2):
            for name in "ab":
                world.aspire(number, name=name, path=f"/{name}")
            if number == 1:
                world.work()
                world.free["ram"] = 10
        world.fetch()
        assert world.states("a") == {2: "LOADING", 1: "UNLOADING"}
        assert world.states("b") == {2: "LOADING", 1: "AVAILABLE"}

    def test_a_load_waits_for_those_that_are_under_way(self) -> None:
        world = World(limit=100)
        world.sizes = {"/m/1": 60, "/m/2": 60}
        world.errors["/m/2"] = NotFoundError("broken")
        world.aspire(1, 2)
        world.fetch()
        assert len(world.loads.jobs) == 1
        world.work()
        assert world.states() == {1: "AVAILABLE", 2: "END"}
        assert world.error(2)[0] == "NOT_FOUND"

    def test_a_wait_for_memory_ends_when_the_version_is_not_wanted(self) -> None:
        world = World(limit=100)
        world.sizes = {"/m/1": 60, "/m/2": 60}
        world.aspire(1, 2)
        world.fetch()
        world.aspire(2)
        world.work()
        assert world.states() == {1: "END", 2: "AVAILABLE"}
        assert world.error(1)[0] == "CANCELLED"


class TestLazy:
    def lazy(self, limit: int = 0) -> World:
        return World(limit=limit, usual=Keeping(lazy=True))

    def test_nothing_is_loaded_before_it_is_asked_for(self) -> None:
        world = self.lazy()
        world.aspire(1)
        resolution = world.watch("m")
        world.work()
        assert resolution.wait(0), "a model that can be asked for is available"
        assert resolution.failures == ()
        assert world.events == ["m/1 START"]
        assert world.waited_for() == {1}
        world.ask_for(1)
        assert world.states() == {1: "LOADING"}
        assert world.waited_for() == {1}
        world.work()
        assert world.states() == {1: "AVAILABLE"}
        assert world.waited_for() == set()

    def test_asking_for_what_is_not_to_be_had_does_nothing(self) -> None:
        world = self.lazy()
        world.aspire(1)
        world.ask_for(2)
        world.ask_for(1, name="other")
        assert world.states() == {1: "START"}

    def test_the_least_recently_used_makes_room(self) -> None:
        world = self.lazy(limit=100)
        for name in "abc":
            world.sizes[f"/{name}/1"] = 40
            world.aspire(1, name=name, path=f"/{name}")
        world.idle = {"a": 10.0, "b": 20.0}
        for name in "abc":
            world.pass_time(LEAST_STAY_S)
            world.ask_for(1, name=name)
            world.work()
        assert [world.states(name)[1] for name in "abc"] == ["AVAILABLE", "START", "AVAILABLE"]
        assert world.waited_for("b") == {1}, "it can be asked for again"
        world.pass_time(LEAST_STAY_S)
        world.ask_for(1, name="b")
        world.work()
        assert [world.states(name)[1] for name in "abc"] == ["START", "AVAILABLE", "AVAILABLE"]

    def test_a_version_stays_for_a_moment(self) -> None:
        world = self.lazy(limit=100)
        world.sizes = {"/a/1": 60, "/b/1": 60}
        for name in "ab":
            world.aspire(1, name=name, path=f"/{name}")
            world.ask_for(1, name=name)
            world.work()
        assert [world.states(name)[1] for name in "ab"] == ["AVAILABLE", "LOADING"]
        world.pass_time(LEAST_STAY_S)
        world.work()
        assert [world.states(name)[1] for name in "ab"] == ["START", "AVAILABLE"]

    def test_a_version_asked_for_while_it_is_evicted_comes_back(self) -> None:
        world = self.lazy(limit=100)
        world.sizes = {"/a/1": 60, "/b/1": 60}
        for name in "ab":
            world.aspire(1, name=name, path=f"/{name}")
        world.ask_for(1, name="a")
        world.work()
        world.pass_time(LEAST_STAY_S)
        world.ask_for(1, name="b")
        world.fetch()
        assert world.states("a") == {1: "UNLOADING"}
        assert world.waited_for("a") == {1}
        world.ask_for(1, name="a")
        world.work()
        assert world.states("b") == {1: "AVAILABLE"}
        world.pass_time(LEAST_STAY_S)
        world.work()
        assert sorted(world.states(name)[1] for name in "ab") == ["AVAILABLE", "START"]
        assert world.events.count("load a/1") == 2

    def test_pinned_and_eager_models_stay(self) -> None:
        world = self.lazy(limit=100)
        world.configure(ModelConfig("a", "/a", pinned=True), ModelConfig("b", "/b", lazy=False), ModelConfig("c", "/c"))
        for name in "abc":
            world.sizes[f"/{name}/1"] = 40
            world.aspire(1, name=name, path=f"/{name}")
        for name in "ac":
            world.ask_for(1, name=name)
            world.work()
        assert [world.states(name)[1] for name in "abc"] == ["AVAILABLE", "AVAILABLE", "END"]
        assert world.error(1, "c")[0] == "RESOURCE_EXHAUSTED"

    def test_nothing_is_evicted_for_what_fits_in_no_case(self) -> None:
        world = self.lazy(limit=100)
        world.sizes = {"/a/1": 60, "/b/1": 200}
        for name in "ab":
            world.aspire(1, name=name, path=f"/{name}")
            world.ask_for(1, name=name)
            world.work()
        assert world.states("a") == {1: "AVAILABLE"}
        assert world.error(1, "b")[0] == "RESOURCE_EXHAUSTED"

    def test_who_asks_for_a_broken_version_is_told_and_may_ask_later(self) -> None:
        world = self.lazy()
        world.errors["/m/1"] = NotFoundError("broken")
        world.aspire(1)
        world.ask_for(1)
        world.work()
        assert world.error(1) == ("NOT_FOUND", "broken")
        assert world.waited_for() == {1}
        del world.errors["/m/1"]
        world.pass_time(60)
        assert world.states() == {1: "START"}
        assert world.error(1) == ("OK", "")
        world.ask_for(1)
        world.work()
        assert world.states() == {1: "AVAILABLE"}

    def test_a_model_in_use_gets_its_new_version_without_being_asked(self) -> None:
        world = self.lazy()
        world.aspire(1)
        world.ask_for(1)
        world.work()
        world.aspire(2)
        assert world.states() == {1: "AVAILABLE", 2: "LOADING"}
        assert world.waited_for() == set(), "the old version answers meanwhile"
        world.work()
        assert world.states() == {1: "END", 2: "AVAILABLE"}

    def test_a_model_out_of_use_does_not(self) -> None:
        world = self.lazy()
        world.aspire(1)
        world.aspire(2)
        world.work()
        assert world.states() == {2: "START"}


class TestOddTimes:
    def test_a_version_that_waits_for_memory_gives_way_to_the_next(self) -> None:
        world = World(limit=100, usual=Keeping(transition=Transition.RESOURCE_PRESERVING))
        world.sizes = {"/a/1": 60, "/b/1": 60, "/c/1": 60, "/c/2": 10}
        for name in "abc":
            world.aspire(1, name=name, path=f"/{name}")
        world.fetch()
        world.aspire(2, name="c", path="/c")
        world.work()
        assert world.states("c") == {1: "END", 2: "AVAILABLE"}
        assert world.error(1, "c")[0] == "CANCELLED"

    def test_a_version_that_was_replaced_does_not_come_back(self) -> None:
        world = World(retries=5)
        world.incomplete.add("/old/1")
        world.aspire(1, path="/old")
        world.work()
        world.clock.now += 10
        world.manager.aspire({"m": [Aspired(1, "/new/1")]})
        world.incomplete.clear()
        world.manager.process()
        world.pass_time(100)
        world.work()
        assert world.events.count("load m/1") == 1
        assert world.states() == {1: "AVAILABLE"}

    def test_a_version_that_is_loaded_keeps_its_batching(self) -> None:
        world = World(limit=100, usual=Keeping(lazy=True))
        world.sizes = {"/m/1": 60, "/n/1": 60}
        world.aspire(1)
        world.aspire(1, name="n", path="/n")
        world.ask_for(1)
        world.work()
        batching = BatchingParameters(max_batch_size=8)
        world.manager.aspire({"m": [Aspired(1, "/m/1", batching=batching)]})
        world.manager.process()
        world.work()
        assert [goal.batching for goal in world.prepared] == [None]
        world.pass_time(LEAST_STAY_S)
        world.ask_for(1, name="n")
        world.work()  # unloads the other
        world.pass_time(LEAST_STAY_S)
        world.ask_for(1)
        world.work()
        assert [goal.batching for goal in world.prepared if goal.path == "/m/1"] == [None, batching]

    def test_a_version_that_failed_is_tried_with_other_batching(self) -> None:
        world = World()
        world.errors["/m/1"] = ServableError("input_batch_size_limit must be positive; was 0", code="INVALID_ARGUMENT")
        world.aspire(1)
        world.work()
        assert world.states() == {1: "END"}
        world.errors.clear()
        world.manager.aspire({"m": [Aspired(1, "/m/1", batching=BatchingParameters())]})
        world.manager.process()
        world.work()
        assert world.states() == {1: "AVAILABLE"}

    def test_nobody_but_a_start_waits_for_files_that_do_not_come(self) -> None:
        world = World()
        world.incomplete.add("/m/1")
        world.aspire(1)
        start, reload = world.watch("m"), world.manager.watch(["m"], patient=False)
        for _ in range(int(LONGEST_INCOMPLETE_S * 2) + 2):
            world.work()
            world.pass_time(0.5)
        world.work()
        assert reload.wait(0)
        assert "UNAVAILABLE: half of it" in str(reload.failures[0])
        assert not start.wait(0)

    def test_the_old_version_stays_until_the_files_of_the_new_one_are_here(self) -> None:
        world = World(usual=Keeping(transition=Transition.RESOURCE_PRESERVING))
        world.aspire(1)
        world.work()
        world.incomplete.add("/m/2")
        world.aspire(2)
        world.work()
        assert world.states() == {1: "AVAILABLE", 2: "LOADING"}
        world.incomplete.clear()
        world.pass_time(0.5)
        world.work()
        assert world.states() == {1: "END", 2: "AVAILABLE"}

    def test_a_version_does_not_wait_for_the_files_of_one_that_nobody_wants(self) -> None:
        world = World(usual=Keeping(transition=Transition.RESOURCE_PRESERVING))
        world.aspire(1)
        world.work()
        world.aspire(2)
        download = world.fetches.jobs.pop()

        def replace_it() -> None:
            world.aspire(3)
            world.work()

        world.while_preparing = replace_it
        download()
        assert world.states() == {3: "AVAILABLE", 2: "LOADING", 1: "END"}
        world.manager.process()
        assert world.states() == {3: "AVAILABLE", 2: "END", 1: "END"}
        assert world.error(2)[0] == "CANCELLED"

    def test_a_load_that_fits_in_no_case_holds_up_nobody(self) -> None:
        world = World(limit=100)
        world.sizes = {"/a/1": 60, "/b/1": 200, "/c/1": 30}
        for name in "abc":
            world.aspire(1, name=name, path=f"/{name}")
        world.fetch()
        assert world.states("b") == {1: "END"}
        world.work()
        assert world.states("c") == {1: "AVAILABLE"}


def test_a_configured_model_is_published_before_it_has_a_version_and_told_apart_from_one_that_is_gone() -> None:
    world = World()
    world.configure(ModelConfig("m", "/m"))
    assert world.routes == {"m": ModelRoutes((), {})}
    world.aspire(1)
    world.work()
    assert world.routes["m"].configured
    world.configure()
    world.aspire()
    world.work()
    assert not world.routes["m"].configured
    assert [version.state for version in world.routes["m"].versions] == ["END"]


def test_what_keeps_a_version_from_being_loaded_is_published_until_it_is() -> None:
    world = World(retries=1)

    def remark() -> tuple[str, str]:
        (version,) = world.routes["m"].versions
        return version.remark, version.error_code

    world.incomplete.add("/m/1")
    world.aspire(1)
    world.fetch()
    assert remark() == ("UNAVAILABLE: half of it", "OK")
    world.incomplete.clear()
    world.errors["/m/1"] = ServableError("broken", code="UNKNOWN")
    world.pass_time(0.5)
    world.work()
    assert remark() == ("UNKNOWN: broken", "OK")
    world.errors.clear()
    world.pass_time(60.0)
    world.work()
    assert remark() == ("", "OK")


def test_a_model_that_is_not_configured_any_more_is_not_waited_for() -> None:
    world = World()
    world.configure(ModelConfig("m", "/m"), ModelConfig("n", "/n"))
    resolution = world.watch("m", "n")
    world.aspire(1)
    world.work()
    assert not resolution.wait(0)
    world.configure(ModelConfig("m", "/m"))
    assert resolution.wait(0)
    assert not resolution.failures
