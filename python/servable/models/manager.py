"""The owner of all versions of all models: brings about what is aspired, and publishes what there is.

The life of a version, as `GetModelStatus` tells it:

    START ──> LOADING ──> AVAILABLE ──> UNLOADING ──> END
      ^          └──── failed or cancelled ──────────> END (with an error)
      └──── evicted ─────── UNLOADING

A lazy version stays in START until it is asked for, and returns there when others need its memory. While LOADING, a
version is prepared (its files are brought), then waits for memory, then is loaded; while a load is retried it stays
LOADING. Requests reach a version through the published routes while it is AVAILABLE and no longer.

A version that has ended stays known, so that its status can be asked for. It starts anew when it is aspired again after
it was not, when it comes from another path or is to be batched otherwise, or, if it had failed, when its files have
changed (`retry`) or its cause may have gone (`OUTAGES`). While it is loaded it stays as it was loaded.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from servable.config.model_config import ModelConfig, Transition
from servable.errors import (
    CancelledError,
    IncompleteError,
    InsufficientMemoryError,
    InternalError,
    NotFoundError,
    ServableError,
)
from servable.models.loader import Prepared
from servable.models.memory import Admission, Memory, admission
from servable.models.policy import Load, VersionSnapshot, next_action
from servable.models.pool import Job, Pool
from servable.models.resolution import Failure, Resolution
from servable.models.source import Aspired
from servable.models.version import Phase, Version
from servable.types import ModelRoutes, State

if TYPE_CHECKING:
    from servable.engine import Servable

__all__ = ["Failed", "Keeping", "Manager", "Outside", "Pools", "Retries"]

log = logging.getLogger(__name__)

MAX_ENDED_VERSIONS = 100
"""Ended versions remembered per model, those with the highest numbers: four days of a new one every hour."""

LEAST_STAY_S = 0.25
"""How long a lazy version stays at least: those who have waited for it need a moment to get to it."""

NO_THREAD_PAUSE_S = 1.0
"""How long to wait before the system is asked again for a thread that it refused."""

LONGEST_INCOMPLETE_S = 60.0
"""How long a reload waits for the files of a version that are not all there."""

UNLOAD_SLICE_S = 0.1
"""How long an unload waits for requests before the next one in the queue has its turn."""

MAX_ENDED_MODELS = 1000
"""Models remembered that are not configured any more."""

PERMANENT = ("FAILED_PRECONDITION", "UNIMPLEMENTED")
"""Codes of load errors that another attempt will not mend: a package is missing, an op is unknown."""


OUTAGES = ("UNAVAILABLE", "RESOURCE_EXHAUSTED", "PERMISSION_DENIED")
"""Codes of load errors whose cause lies outside of the version's files, and may go away without a change of these."""

LEAST_OUTAGE_PAUSE_S = 1.0
"""Between attempts that do not end, however short the interval of those that do."""


@dataclass(frozen=True)
class Retries:
    """Further attempts after a load has failed, after intervals that double until they are `interval_s`."""

    limit: int = 5
    interval_s: float = 60.0

    def pause_s(self, attempts: int) -> float:
        """The time between the attempt of this number, counted from 1, and the next one.

        With five retries and a minute: 3.75, 7.5, 15, 30, 60 s. What mends itself mostly does so soon.
        """
        return self.interval_s / float(2 ** max(0, 5 - attempts))


@dataclass(frozen=True)
class Keeping:
    """How a model's versions are kept."""

    transition: Transition = Transition.AVAILABILITY_PRESERVING
    lazy: bool = False
    pinned: bool = False
    labels: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Pools:
    """Where the parts are run that wait: bringing files, loading, unloading."""

    fetches: Callable[[str], Pool]
    """By the path that is brought."""
    loads: Pool
    unloads: Pool


@dataclass(frozen=True)
class Outside:
    """What the manager needs from outside. `prepare` and `stamp` are called on threads of the pool for fetching."""

    prepare: Callable[[str, Aspired], Prepared]
    """Brings the files of a version; `IncompleteError` if they are not all there yet."""
    publish: Callable[[Mapping[str, ModelRoutes]], None]
    """Gets the whole table of routes after every change."""
    stamp: Callable[[str], str] = lambda path: ""
    """A text that changes when anything in a version's folder changes."""
    clock: Callable[[], float] = time.monotonic


@dataclass(frozen=True)
class Failed:
    """A version that could not be loaded, and what its files looked like before that was tried."""

    name: str
    goal: Aspired
    stamp: str


class Manager:
    """Runs on one thread of its own (`run`); other threads leave messages with it and read what was published last."""

    def __init__(
        self,
        outside: Outside,
        pools: Pools,
        *,
        retries: Retries,
        memory: Memory | None = None,
        usual: Keeping | None = None,
    ) -> None:
        self._outside = outside
        self._pools = pools
        self._retries = retries
        self._memory = memory or Memory()
        self._usual = usual or Keeping()
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._said: dict[str, Sequence[Aspired]] = {}
        """What was aspired last, as it was said."""
        self._goals: dict[str, Mapping[int, Aspired]] = {}
        self._keeping: dict[str, Keeping] = {}
        self._models: dict[str, dict[int, Version]] = {}
        self._touched: set[str] = set()
        """Models of which something has changed since the last step."""
        self._alarms: dict[str, list[Version]] = {}
        self._queue: list[Version] = []
        """Versions that wait for memory, in the order in which they came."""
        self._watched: list[Resolution] = []
        self._routes: dict[str, ModelRoutes] = {}
        self._failed: dict[str, list[Version]] = {}
        self._gone: dict[str, None] = {}
        """Models that have ended, those that ended first at the front."""
        self._jobs: list[tuple[Pool, Job]] = []
        """What is to be submitted with the next step."""
        self._closed: threading.Event | None = None
        self.routes: Mapping[str, ModelRoutes] = {}
        """What was published last. For any thread."""
        self.failed: Sequence[Failed] = ()
        """The versions that are wanted and could not be loaded. For any thread."""

    # For any thread.

    def aspire(self, models: Mapping[str, Sequence[Aspired]]) -> None:
        """These are the versions to serve of these models; other models stay as they are."""
        self._inbox.put(lambda: self._aspire(models))

    def configure(self, models: Sequence[ModelConfig]) -> None:
        """These are all models: their labels, and how they are kept."""
        self._inbox.put(lambda: self._configure(models))

    def ask_for(self, name: str, version: int) -> None:
        """There is a request for this lazy version. Asking for one that is loaded, or not to be had, does no harm."""
        self._inbox.put(lambda: self._ask_for(name, version))

    def retry(self, name: str, version: int) -> None:
        """Try this version again if it has failed: its files have changed."""
        self._inbox.put(lambda: self._retry(name, version))

    def watch(self, names: Iterable[str], *, patient: bool, hasty: bool = False) -> Resolution:
        """Ask for word when these models are available or have failed. What was aspired before counts.

        A model without any version may get one some time, if `patient`; else it has failed. For the `hasty`, so has one
        whose first attempt has failed, or whose files are not all there, whatever becomes of it later.
        """
        resolution = Resolution(names, patient=patient, hasty=hasty)
        self._inbox.put(lambda: self._watch(resolution))
        return resolution

    def close(self) -> threading.Event:
        """Unload everything and take on nothing any more; the event is set when nothing is left."""
        closed = threading.Event()
        self._inbox.put(lambda: self._close(closed))
        return closed

    # For the one thread that owns the manager.

    def run(self) -> None:
        """Work until closed."""
        while self._closed is None or not self._closed.is_set():
            try:
                with contextlib.suppress(queue.Empty):
                    self._inbox.get(timeout=self._until_alarm())()
                self.process()
            except Exception:
                log.exception("The manager of models failed to take a step; this is a bug")

    def process(self) -> None:
        """Deal with everything that has arrived or is due."""
        self._ring()
        while not self._inbox.empty():
            self._inbox.get()()
        self._advance()

    def _until_alarm(self) -> float | None:
        alarms = [v.alarm for versions in self._alarms.values() for v in versions if v.alarm is not None]
        if self._queue:
            # There may be room when one has stayed long enough, or when something outside gives back memory.
            alarms.append(self._outside.clock() + LEAST_STAY_S)
        if self._jobs:
            alarms.append(self._outside.clock() + NO_THREAD_PAUSE_S)
        return max(0.0, min(alarms) - self._outside.clock()) if alarms else None

    def _ring(self) -> None:
        """Do what is due."""
        now = self._outside.clock()
        due = [v for versions in self._alarms.values() for v in versions if v.alarm is not None and v.alarm <= now]
        for version in due:
            if self._models.get(version.name, {}).get(version.number) is not version:
                continue  # another has taken its place
            version.alarm = None
            self._touch(version)
            if version.state is State.LOADING:
                if version.error is not None:
                    log.info("Retrying of Loading servable: %s retry: %s", version, version.attempts)
                self._prepare(version)
            elif version.state is State.END:
                version.state, version.error, version.asked_for = State.START, None, False

    # Messages.

    def _aspire(self, models: Mapping[str, Sequence[Aspired]]) -> None:
        if self._closed is None:
            for name, goals in models.items():
                if self._said.get(name) is goals:
                    continue  # by far the most frequent case, a thousand times a second with a thousand models
                self._said[name] = goals
                by_number = {goal.version: goal for goal in goals}
                if self._goals.get(name) != by_number:
                    self._goals[name] = by_number
                    self._touched.add(name)
                    self._reconcile(name)

    def _configure(self, models: Sequence[ModelConfig]) -> None:
        before, usual = self._keeping, self._usual
        self._keeping = {
            model.name: Keeping(
                transition=model.transition or usual.transition,
                lazy=usual.lazy if model.lazy is None else model.lazy,
                pinned=model.pinned,
                labels=model.labels,
            )
            for model in models
        }
        names = self._keeping.keys() | before.keys()
        self._touched |= {name for name in names if self._keeping.get(name) != before.get(name)}
        for resolution in self._watched:
            if resolution.patient:  # it would wait for ever for what is gone
                for name in before.keys() - self._keeping.keys():
                    resolution.open.pop(name, None)

    def _ask_for(self, name: str, number: int) -> None:
        version = self._models.get(name, {}).get(number)
        if version is not None and not version.asked_for:
            version.asked_for = True
            self._touch(version)

    def _retry(self, name: str, number: int) -> None:
        version = self._models.get(name, {}).get(number)
        if version is None or not version.aspired or version.error is None:
            return
        if version.state is State.END:
            log.info("The files of %s have changed: it is tried again", version)
            self._renew(version)
        elif version.state is State.LOADING and version.alarm is not None:
            version.alarm = self._outside.clock()
            self._ring()

    def _watch(self, resolution: Resolution) -> None:
        self._watched.append(resolution)
        self._touched.update(resolution.names)

    def _close(self, closed: threading.Event) -> None:
        self._said.clear()
        for name in self._goals:
            self._goals[name] = {}
            self._touched.add(name)
            self._reconcile(name)
        self._closed = closed

    # What the pools have to tell.

    def _brought(self, version: Version, stamp: str, prepared: Prepared) -> None:
        self._touch(version)
        version.stamp, version.prepared, version.incomplete_since = stamp, prepared, None
        version.phase = Phase.QUEUED
        self._queue.append(version)

    def _not_brought(self, version: Version, stamp: str, error: ServableError) -> None:
        version.stamp = stamp
        if isinstance(error, IncompleteError) and version.aspired:
            self._touch(version)
            now = self._outside.clock()
            if version.incomplete_since is None:
                log.info("%s is not complete yet: %s", version, error.message)
                version.incomplete_since = now
            version.attempts -= 1  # it was none
            version.error, version.missing = None, error
            version.alarm = now + error.retry_after_s
        else:
            self._load_failed(version, error)

    def _loaded(self, version: Version, servable: Servable) -> None:
        self._touch(version)
        version.servable = servable
        if version.aspired:
            log.info("Successfully loaded servable version %s", version)
            version.state, version.error, version.attempts = State.AVAILABLE, None, 0
            version.available_at = self._outside.clock()
        else:
            self._unload(version, CancelledError("Loading of servable cancelled"))

    def _load_failed(self, version: Version, error: ServableError) -> None:
        log.warning("Loading servable: %s failed: %s", version, error.status)
        self._touch(version)
        is_full = isinstance(error, InsufficientMemoryError)
        is_last = version.attempts > self._retries.limit or error.code in PERMANENT or is_full
        if version.aspired and not is_last and not self._is_lazy(version):
            version.let_go()
            version.phase = Phase.PREPARING
            version.error = error
            version.alarm = self._outside.clock() + self._retries.pause_s(version.attempts)
            return
        if version.aspired:
            log.error("Servable %s cannot be loaded: %s", version, error.status)
        version.end(error)
        if version.aspired and self._is_lazy(version) and not is_full:
            # Who asks meanwhile is told of the error; who asks later has it tried again.
            version.alarm = self._outside.clock() + self._retries.pause_s(version.attempts)
        elif version.aspired and error.code in OUTAGES:
            version.alarm = self._outside.clock() + max(self._retries.interval_s, LEAST_OUTAGE_PAUSE_S)

    def _unloaded(self, version: Version, error: ServableError | None) -> None:
        log.info("Done unloading servable version %s", version)
        self._touch(version)
        if version.evicted and version.aspired and error is None:
            version.let_go()
            version.state, version.evicted = State.START, False
        else:
            version.end(error)
        for other in [other for versions in self._failed.values() for other in versions]:
            is_current = other.aspired and self._models.get(other.name, {}).get(other.number) is other
            if is_current and isinstance(other.error, InsufficientMemoryError) and not self._is_lazy(other):
                log.info("There is more room now: %s is tried again", other)
                self._renew(other)

    # Steps.

    def _advance(self) -> None:
        """Compare what is with what should be, take every step that is possible, and tell everybody."""
        touched: set[str] = set()
        is_first = True  # what waits for memory is looked at in any case: time may have made room
        while self._touched or is_first:
            names, self._touched, is_first = self._touched, set(), False
            for name in names & self._goals.keys():
                self._reconcile(name)
                _forget_versions(self._models[name])
                self._act(name, self._models[name])
            self._drop_queued()
            self._admit_queued()
            touched |= names
        touched |= self._forget_models(touched)
        self._publish_changes(touched)
        # After publishing: LOADING is told before a load begins, and nobody reaches a version that is being unloaded.
        self._jobs = [(pool, job) for pool, job in self._jobs if not pool.submit(job)]
        self._resolve(touched)

    def _reconcile(self, name: str) -> None:
        """Take on the versions that are newly aspired, and let go of those that are not any more."""
        versions, goals = self._models.setdefault(name, {}), self._goals[name]
        for number in versions.keys() - goals.keys():
            version = versions[number]
            version.aspired = False
            if version.state is State.START:
                del versions[number]
            elif version.alarm is not None:
                version.end(version.error or CancelledError("Loading of servable cancelled"))
        for number, goal in goals.items():
            known = versions.get(number)
            if known is None:
                versions[number] = Version(name, goal)
            elif known.state is State.START:
                known.goal = goal
            elif known.goal == goal and known.aspired:
                continue
            elif known.state is State.END or (known.state is State.LOADING and known.alarm is not None):
                known.aspired, known.alarm = False, None  # nobody knows it any more
                versions[number] = Version(name, goal)
            elif known.state in (State.LOADING, State.AVAILABLE):
                known.aspired = True

    def _forget_models(self, touched: Iterable[str]) -> set[str]:
        """Forget those that ended first, if there are too many. Their names."""
        for name in self._models.keys() & touched:
            self._gone.pop(name, None)
            if not self._goals[name] and all(v.state is State.END for v in self._models[name].values()):
                self._gone[name] = None
        forgotten = list(self._gone)[:-MAX_ENDED_MODELS]
        for name in forgotten:
            del self._gone[name], self._models[name], self._goals[name]
            self._said.pop(name, None)
        return set(forgotten)

    def _act(self, name: str, versions: Mapping[int, Version]) -> None:
        """Take the steps that the policy asks for."""
        transition = self._keeping.get(name, self._usual).transition
        while action := next_action([self._snapshot(version) for version in versions.values()], transition):
            version = versions[action.version]
            if isinstance(action, Load):
                log.info("Loading servable version %s", version)
                version.state = State.LOADING
                self._prepare(version)
            else:
                log.info("Quiescing servable version %s", version)
                self._unload(version, None)

    def _snapshot(self, version: Version) -> VersionSnapshot:
        asked_for = version.asked_for or not self._is_lazy(version)
        is_granted = version.state is State.LOADING and version.phase in (Phase.GRANTED, Phase.LOADING)
        return VersionSnapshot(version.number, version.state, version.aspired, asked_for, is_granted)

    def _is_lazy(self, version: Version) -> bool:
        return self._keeping.get(version.name, self._usual).lazy

    def _prepare(self, version: Version) -> None:
        version.phase = Phase.PREPARING
        version.attempts += 1
        outside = self._outside

        def job() -> None:
            if not version.aspired:  # read on another thread: at worst one look too many
                self._inbox.put(lambda: self._not_wanted(version))
                return
            stamp = ""
            try:
                stamp = outside.stamp(version.goal.path)  # first: what changes from here on is a reason to try again
                prepared = outside.prepare(version.name, version.goal)
            except Exception as error:
                failure = _domain_error(error)
                self._inbox.put(lambda: self._not_brought(version, stamp, failure))
            else:
                self._inbox.put(lambda: self._brought(version, stamp, prepared))

        self._jobs.append((self._pools.fetches(version.goal.path), job))

    def _not_wanted(self, version: Version) -> None:
        """Its turn came when it was not wanted; by now it may be."""
        self._touch(version)
        if version.aspired and version.prepared is None:
            version.attempts -= 1
            self._prepare(version)
        elif version.aspired:
            self._load(version)
        else:
            version.end(CancelledError("Loading of servable cancelled"))

    def _drop_queued(self) -> None:
        """What is not wanted any more does not wait for memory any more."""
        for version in [version for version in self._queue if not version.aspired]:
            self._queue.remove(version)
            version.end(CancelledError("Loading of servable cancelled"))
            self._touch(version)

    def _admit_queued(self) -> None:
        """Begin to load what there is room for. What waits for memory is not overtaken by others that need some."""
        is_waiting = False
        for version in list(self._queue):
            waits_for_others = self._waits_for_others(version)
            if (waits_for_others and version.phase is Phase.GRANTED) or (is_waiting and any(version.memory.values())):
                continue
            decision, reason = self._admission(version)
            while decision is Admission.EVICT:
                self._evict_one()
                decision, reason = self._admission(version)
            if decision is Admission.WAIT:
                is_waiting = True
                continue
            if decision is Admission.ADMIT and waits_for_others:
                version.phase = Phase.GRANTED
                self._touch(version)
                return  # to come back when the old ones are on their way out: others may have room for that
            self._queue.remove(version)
            if decision is Admission.ADMIT:
                log.info("Approving load for servable version %s", version)
                self._load(version)
            else:
                message = f"Insufficient resources to load servable {version}: {reason}{self._hint(version)}"
                self._load_failed(version, InsufficientMemoryError(message))

    def _waits_for_others(self, version: Version) -> bool:
        """Whether versions of its model have to go first that are not wanted any more."""
        if self._transition(version) is not Transition.RESOURCE_PRESERVING:
            return False
        others = [other for other in self._models[version.name].values() if not other.aspired]
        return any(self._is_ahead(other, version) for other in others)

    def _is_ahead(self, other: Version, version: Version) -> bool:
        """Whether `other` holds memory, or is going to before `version` does, which is in the queue."""
        if other.state is State.LOADING and other.phase is Phase.GRANTED:
            return self._queue.index(other) < self._queue.index(version)
        return other.holds_memory

    def _transition(self, version: Version) -> Transition:
        return self._keeping.get(version.name, self._usual).transition

    def _admission(self, version: Version) -> tuple[Admission, str]:
        if not any(version.memory.values()):
            return Admission.ADMIT, ""
        kinds = ("staying", "coming", "leaving", "evictable", "fresh", "parting")
        lets_go_first = self._transition(version) is Transition.RESOURCE_PRESERVING
        others: dict[str, list[Mapping[str, int]]] = {kind: [] for kind in kinds}
        for known in self._all_versions():
            if not self._is_ahead(known, version):
                continue
            if lets_go_first and known.name == version.name and not known.aspired and known.servable is not None:
                kind = "parting"
            elif known.state is State.UNLOADING:
                kind = "leaving"
            elif known.state is State.AVAILABLE:
                is_fresh = self._stays_for(known) > 0
                kind = ("fresh" if is_fresh else "evictable") if self._is_evictable(known) else "staying"
            else:
                kind = "coming"
            others[kind].append(known.memory)
        capacity = version.prepared.capacity if version.prepared else {}
        memory = replace(self._memory, limits={**capacity, **self._memory.limits})
        return admission(memory, version.memory, **others)

    def _hint(self, version: Version) -> str:
        """What would make room, if that is easy to say."""
        old = [v.number for v in self._models[version.name].values() if v.state is State.AVAILABLE and not v.aspired]
        if old and self._transition(version) is Transition.AVAILABILITY_PRESERVING:
            return f". With the transition RESOURCE_PRESERVING, version {old[0]} would be unloaded first"
        return ""

    def _is_evictable(self, version: Version) -> bool:
        keeping = self._keeping.get(version.name, self._usual)
        return keeping.lazy and not keeping.pinned and version.aspired and version.servable is not None

    def _stays_for(self, version: Version) -> float:
        """Seconds for which an evictable version stays in any case."""
        return version.available_at + LEAST_STAY_S - self._outside.clock()

    def _evict_one(self) -> None:
        """Unload the lazy version that has not been used for the longest time."""
        lazy = [v for v in self._all_versions() if v.state is State.AVAILABLE and self._is_evictable(v)]
        candidates = [version for version in lazy if self._stays_for(version) <= 0]
        version = max(candidates, key=lambda v: v.servable.idle_s if v.servable else 0.0)
        log.info("Unloading %s, which is the least recently used, to make room", version)
        version.evicted, version.asked_for = True, False
        self._unload(version, None)

    def _all_versions(self) -> Iterable[Version]:
        return (version for versions in self._models.values() for version in versions.values())

    def _load(self, version: Version) -> None:
        version.phase = Phase.LOADING
        prepared = version.prepared
        if prepared is None:
            raise AssertionError(f"{version} is loaded before it is prepared: this is a bug")

        def job() -> None:
            if not version.aspired:  # read on another thread: at worst one load too many
                self._inbox.put(lambda: self._not_wanted(version))
                return
            try:
                servable = prepared.loader.load()
            except Exception as error:
                failure = _domain_error(error)
                self._inbox.put(lambda: self._load_failed(version, failure))
            else:
                self._inbox.put(lambda: self._loaded(version, servable))

        self._jobs.append((self._pools.loads, job))

    def _unload(self, version: Version, outcome: ServableError | None) -> None:
        """Let the version end with `outcome`, when no request uses it any more."""
        servable = version.servable
        version.state = State.UNLOADING
        self._touch(version)

        def job() -> None:
            error = outcome
            try:
                if servable is not None and not servable.unload(UNLOAD_SLICE_S):
                    self._pools.unloads.submit(job)  # still in use; others have their turn meanwhile
                    return
            except Exception as failure:
                error = _domain_error(failure)
            self._inbox.put(lambda: self._unloaded(version, error))

        self._jobs.append((self._pools.unloads, job))

    def _renew(self, version: Version) -> None:
        """Let a version that has ended start anew."""
        if version.state is State.END:
            self._models[version.name][version.number] = Version(version.name, version.goal)
            self._touch(version)

    def _touch(self, version: Version) -> None:
        self._touched.add(version.name)

    # Telling.

    def _publish_changes(self, touched: Iterable[str]) -> None:
        is_changed = False
        for name in touched:
            versions = self._models.get(name, {})
            self._note(name, versions)
            routes = self._model_routes(name, versions)
            if routes != self._routes.get(name):
                is_changed = True
                if routes is None:
                    del self._routes[name]
                else:
                    self._routes[name] = routes
        if is_changed:
            table = dict(self._routes)
            self._outside.publish(table)
            self.routes = table

    def _model_routes(self, name: str, versions: Mapping[int, Version]) -> ModelRoutes | None:
        if not versions and name not in self._keeping:
            return None
        keeping = self._keeping.get(name, self._usual)
        # While an old version serves, what replaces it is not waited for.
        is_replaced = any(v.state is State.AVAILABLE and not v.aspired for v in versions.values())
        on_demand = keeping.lazy and not is_replaced
        return ModelRoutes(
            versions=tuple(versions[number].route(on_demand=on_demand) for number in sorted(versions, reverse=True)),
            labels=keeping.labels,
            configured=name in self._keeping,
        )

    def _note(self, name: str, versions: Mapping[int, Version]) -> None:
        """Keep the lists of alarms and of failures."""
        alarms = [version for version in versions.values() if version.alarm is not None]
        _put(self._alarms, name, alarms)
        failed = [
            v for v in versions.values() if v.aspired and v.error and (v.state is State.END or v.alarm is not None)
        ]
        if _put(self._failed, name, failed):
            self.failed = tuple(Failed(v.name, v.goal, v.stamp) for versions in self._failed.values() for v in versions)

    def _resolve(self, touched: Iterable[str]) -> None:
        waiting = []
        for resolution in self._watched:
            for name in resolution.open.keys() & touched:
                outcome = self._outcome(name, resolution)
                if outcome == "available":
                    del resolution.open[name]
                else:
                    resolution.open[name] = outcome
            if None in resolution.open.values():
                waiting.append(resolution)
            else:
                resolution.resolve(failure for failure in resolution.open.values() if failure is not None)
        self._watched = waiting
        if self._closed is not None and all(
            version.state in (State.END, State.START) for version in self._all_versions()
        ):
            self._closed.set()

    def _outcome(self, name: str, resolution: Resolution) -> Failure | Literal["available"] | None:
        """What has become of a model; `None` while that is open.

        It is available as soon as one of its aspired versions is, or can be asked for, whatever becomes of the others.
        """
        if not self._goals.get(name) and not resolution.patient:
            return Failure(name, None, NotFoundError("no version was found under its base path"))
        wanted = [version for version in self._models.get(name, {}).values() if version.aspired]
        if any(version.state is State.AVAILABLE or not self._snapshot(version).asked_for for version in wanted):
            return "available"
        is_given_up = self._has_stumbled if resolution.hasty else self._is_stuck
        if not wanted or any(version.state is not State.END and not is_given_up(version) for version in wanted):
            return None
        newest = max(wanted, key=lambda version: version.number)
        if newest.state is not State.END and resolution.patient:
            return None
        return Failure(name, newest.number, newest.error or newest.missing or InternalError("ended without an error"))

    def _is_stuck(self, version: Version) -> bool:
        """Whether its files have been incomplete for so long that nobody but a start should wait for them."""
        since = version.incomplete_since
        return since is not None and self._outside.clock() - since > LONGEST_INCOMPLETE_S

    def _has_stumbled(self, version: Version) -> bool:
        return version.error is not None or version.incomplete_since is not None


def _forget_versions(versions: dict[int, Version]) -> None:
    ended = sorted(number for number, version in versions.items() if version.state is State.END and not version.aspired)
    for number in ended[:-MAX_ENDED_VERSIONS]:
        del versions[number]


def _put(lists: dict[str, list[Version]], name: str, versions: list[Version]) -> bool:
    """Whether there was, or is, anything."""
    was_there = lists.pop(name, None) is not None
    if versions:
        lists[name] = versions
    return was_there or bool(versions)


def _domain_error(error: Exception) -> ServableError:
    if isinstance(error, ServableError):
        return error
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, MemoryError) or "can't start new thread" in text:
        return ServableError(text, code="RESOURCE_EXHAUSTED")
    return InternalError(text)
