"""The owner of all versions of all models: brings about what is aspired, and publishes what there is.

The life of a version, as `GetModelStatus` tells it:

    START ──> LOADING ──> AVAILABLE ──> UNLOADING ──> END
                 └──── failed or cancelled ──────────> END (with an error)

Requests reach a version through the published routes while it is AVAILABLE and no longer. While a load is retried it
stays LOADING. A version that has ended stays known, so that its status can be asked for. It starts anew when it is
aspired again after it was not, or from another path; a failed version that stays aspired is left alone.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from servable.errors import CancelledError, InternalError, NotFoundError, ServableError
from servable.models.loader import Loader
from servable.models.policy import Load, VersionSnapshot, next_action
from servable.models.pool import Job, Pool
from servable.models.source import Aspired
from servable.types import ModelRoutes, State, VersionRoute

if TYPE_CHECKING:
    from servable.engine import Servable

__all__ = ["Failure", "Manager", "Resolution", "Retries"]

log = logging.getLogger(__name__)

MAX_ENDED_VERSIONS = 100
"""Ended versions remembered per model, those with the highest numbers: four days of a new one every hour."""

UNLOAD_SLICE_S = 0.1
"""How long an unload waits for requests before the next one in the queue has its turn."""

PERMANENT = ("FAILED_PRECONDITION", "UNIMPLEMENTED")
"""Codes of load errors that another attempt will not mend: a package is missing, an op is unknown."""

Labels = Mapping[str, Mapping[str, int]]
"""Version numbers by model and label."""


@dataclass(frozen=True)
class Retries:
    """Further attempts after a load has failed."""

    limit: int = 5
    interval_s: float = 60.0


@dataclass(frozen=True)
class Failure:
    """A model that did not become available, and why."""

    name: str
    version: int | None
    """`None` if there is no version at all."""
    error: ServableError

    def __str__(self) -> str:
        version = "" if self.version is None else f" version: {self.version}"
        return f"{{{{name: {self.name}{version}}} due to error: {self.error.status}}}"


class Resolution:
    """Whether models have become available: one answer, some time. Waited for on any thread."""

    def __init__(self, names: Iterable[str], *, patient: bool) -> None:
        self.names = tuple(names)
        self.patient = patient
        self.failures: tuple[Failure, ...] = ()
        """What did not become available, once resolved."""
        self._resolved = threading.Event()

    def wait(self, timeout_s: float | None = None) -> bool:
        """True once every model has a version that is AVAILABLE, or none left that may become so."""
        return self._resolved.wait(timeout_s)

    def resolve(self, failures: Sequence[Failure]) -> None:
        self.failures = tuple(failures)
        self._resolved.set()


@dataclass
class _Version:
    """What the manager knows of one version."""

    goal: Aspired
    state: State = State.START
    aspired: bool = True
    attempts: int = 0
    retry_at: float | None = None
    error: ServableError | None = None
    servable: Servable | None = None

    def end(self, error: ServableError | None) -> None:
        self.state, self.error, self.retry_at, self.servable = State.END, error, None, None

    def route(self) -> VersionRoute:
        is_failed = self.state is State.END and self.error is not None
        return VersionRoute(
            version=self.goal.version,
            state=self.state.name,
            error_code=self.error.code if is_failed and self.error else "OK",
            error_message=self.error.message if is_failed and self.error else "",
            servable=self.servable if self.state is State.AVAILABLE else None,
        )


class Manager:
    """Runs on one thread of its own (`run`); other threads leave messages with it and read what was published last.

    `make_loader` makes the loader for one attempt, `publish` gets the whole table of routes after every change, `loads`
    and `unloads` run the parts that wait.
    """

    def __init__(
        self,
        *,
        make_loader: Callable[[str, Aspired], Loader],
        publish: Callable[[Mapping[str, ModelRoutes]], None],
        loads: Pool,
        unloads: Pool,
        retries: Retries,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._make_loader = make_loader
        self._publish = publish
        self._loads = loads
        self._unloads = unloads
        self._retries = retries
        self._clock = clock
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._goals: dict[str, Mapping[int, Aspired]] = {}
        self._models: dict[str, dict[int, _Version]] = {}
        self._labels: Labels = {}
        self._watched: list[Resolution] = []
        self._routes: Mapping[str, ModelRoutes] = {}
        self._jobs: list[tuple[Pool, Job]] = []
        self._closed: threading.Event | None = None

    # For any thread.

    def aspire(self, models: Mapping[str, Sequence[Aspired]]) -> None:
        """These are the versions to serve of these models; other models stay as they are."""
        self._inbox.put(lambda: self._aspire(models))

    def label(self, labels: Labels) -> None:
        """These are the labels of all models."""
        self._inbox.put(lambda: self._label(labels))

    def watch(self, names: Iterable[str], *, patient: bool) -> Resolution:
        """Ask for word when these models are available or have failed. What was aspired before counts.

        A model without any version may get one some time, if `patient`; else it has failed.
        """
        resolution = Resolution(names, patient=patient)
        self._inbox.put(lambda: self._watched.append(resolution))
        return resolution

    def close(self) -> threading.Event:
        """Unload everything and take on nothing any more; the event is set when nothing is left."""
        closed = threading.Event()
        self._inbox.put(lambda: self._close(closed))
        return closed

    @property
    def routes(self) -> Mapping[str, ModelRoutes]:
        """What was published last."""
        return self._routes

    # For the one thread that owns the manager.

    def run(self) -> None:
        """Work until closed."""
        while self._closed is None or not self._closed.is_set():
            try:
                with contextlib.suppress(queue.Empty):
                    self._inbox.get(timeout=self._until_retry())()
                self.process()
            except Exception:
                log.exception("The manager of models failed to take a step; this is a bug")

    def process(self) -> None:
        """Deal with everything that has arrived or is due."""
        self._advance()
        while not self._inbox.empty():
            self._inbox.get()()
            self._advance()

    def _until_retry(self) -> float | None:
        times = [v.retry_at for versions in self._models.values() for v in versions.values() if v.retry_at is not None]
        return max(0.0, min(times) - self._clock()) if times else None

    # Messages.

    def _aspire(self, models: Mapping[str, Sequence[Aspired]]) -> None:
        if self._closed is None:
            for name, goals in models.items():
                self._goals[name] = {goal.version: goal for goal in goals}

    def _label(self, labels: Labels) -> None:
        self._labels = labels

    def _close(self, closed: threading.Event) -> None:
        self._goals = {name: {} for name in self._goals}
        self._closed = closed

    def _loaded(self, name: str, version: _Version, servable: Servable) -> None:
        version.servable = servable
        if version.aspired:
            log.info("Successfully loaded servable version %s", _id(name, version))
            version.state = State.AVAILABLE
        else:
            self._unload(name, version, CancelledError("Loading of servable cancelled"))

    def _load_failed(self, name: str, version: _Version, error: ServableError) -> None:
        log.warning("Loading servable: %s failed: %s", _id(name, version), error.status)
        version.error = error
        is_last = version.attempts > self._retries.limit or error.code in PERMANENT
        if version.aspired and not is_last:
            version.retry_at = self._clock() + self._retries.interval_s
        else:
            log.error("Servable %s cannot be loaded: %s", _id(name, version), error.status)
            version.end(error)

    def _not_loaded(self, name: str, version: _Version) -> None:
        """Its turn to load came when it was not wanted."""
        if version.aspired:
            self._load(name, version)
        else:
            version.end(CancelledError("Loading of servable cancelled"))

    def _unloaded(self, name: str, version: _Version, error: ServableError | None) -> None:
        log.info("Done unloading servable version %s", _id(name, version))
        version.end(error)

    # Steps.

    def _advance(self) -> None:
        """Compare what is with what should be, take every step that is possible, and tell everybody."""
        for name, goals in self._goals.items():
            versions = self._models.setdefault(name, {})
            _reconcile(versions, goals)
            _forget(versions)
            self._retry(name, versions)
            self._act(name, versions)
        self._publish_changes()
        # After publishing: LOADING is told before a load begins, and nobody reaches a version that is being unloaded.
        jobs, self._jobs = self._jobs, []
        for pool, job in jobs:
            pool.submit(job)
        self._resolve()

    def _retry(self, name: str, versions: Mapping[int, _Version]) -> None:
        now = self._clock()
        for version in versions.values():
            if version.retry_at is not None and version.retry_at <= now:
                log.info("Retrying of Loading servable: %s retry: %s", _id(name, version), version.attempts)
                self._load(name, version)

    def _act(self, name: str, versions: Mapping[int, _Version]) -> None:
        """Take the steps that the policy asks for."""
        while action := next_action([VersionSnapshot(n, v.state, v.aspired) for n, v in versions.items()]):
            version = versions[action.version]
            if isinstance(action, Load):
                log.info("Loading servable version %s", _id(name, version))
                self._load(name, version)
            else:
                log.info("Quiescing servable version %s", _id(name, version))
                self._unload(name, version, None)

    def _load(self, name: str, version: _Version) -> None:
        version.state = State.LOADING
        version.attempts += 1
        version.retry_at = None

        def job() -> None:
            if not version.aspired:  # read on another thread: at worst one load too many
                self._inbox.put(lambda: self._not_loaded(name, version))
                return
            try:
                servable = self._make_loader(name, version.goal).load()
            except Exception as error:
                failure = _domain_error(error)
                self._inbox.put(lambda: self._load_failed(name, version, failure))
            else:
                self._inbox.put(lambda: self._loaded(name, version, servable))

        self._jobs.append((self._loads, job))

    def _unload(self, name: str, version: _Version, outcome: ServableError | None) -> None:
        """Let the version end with `outcome`, when no request uses it any more."""
        servable = version.servable
        version.state = State.UNLOADING

        def job() -> None:
            error = outcome
            try:
                if servable is not None and not servable.unload(UNLOAD_SLICE_S):
                    self._unloads.submit(job)  # still in use; others have their turn meanwhile
                    return
            except Exception as failure:
                error = _domain_error(failure)
            self._inbox.put(lambda: self._unloaded(name, version, error))

        self._jobs.append((self._unloads, job))

    def _publish_changes(self) -> None:
        routes = {
            name: ModelRoutes(
                versions=tuple(versions[number].route() for number in sorted(versions, reverse=True)),
                labels=self._labels.get(name, {}),
            )
            for name, versions in self._models.items()
            if versions
        }
        if routes != self._routes:
            self._publish(routes)
            self._routes = routes

    def _resolve(self) -> None:
        waiting = []
        for resolution in self._watched:
            outcomes = [self._outcome(name, resolution.patient) for name in resolution.names]
            if None in outcomes:
                waiting.append(resolution)
            else:
                resolution.resolve([outcome for outcome in outcomes if isinstance(outcome, Failure)])
        self._watched = waiting
        if self._closed is not None and all(
            version.state is State.END for versions in self._models.values() for version in versions.values()
        ):
            self._closed.set()

    def _outcome(self, name: str, patient: bool) -> Failure | Literal["available"] | None:
        """What has become of a model; `None` while that is open.

        It is available as soon as one of its aspired versions is, whatever becomes of the others.
        """
        if not self._goals.get(name) and not patient:
            return Failure(name, None, NotFoundError("no version was found under its base path"))
        wanted = [version for version in self._models.get(name, {}).values() if version.aspired]
        if any(version.state is State.AVAILABLE for version in wanted):
            return "available"
        if not wanted or any(version.state is not State.END for version in wanted):
            return None
        newest = max(wanted, key=lambda version: version.goal.version)
        return Failure(name, newest.goal.version, newest.error or InternalError("ended without an error"))


def _reconcile(versions: dict[int, _Version], goals: Mapping[int, Aspired]) -> None:
    """Take on the versions that are newly aspired, and let go of those that are not any more."""
    for number in versions.keys() - goals.keys():
        version = versions[number]
        version.aspired = False
        if version.state is State.START:
            del versions[number]
        elif version.retry_at is not None:
            version.end(version.error)
    for number, goal in goals.items():
        known = versions.get(number)
        if known is None or (known.state is State.END and not (known.aspired and known.goal == goal)):
            versions[number] = _Version(goal)
        elif known.state in (State.LOADING, State.AVAILABLE):
            known.aspired = True


def _forget(versions: dict[int, _Version]) -> None:
    ended = sorted(number for number, version in versions.items() if version.state is State.END and not version.aspired)
    for number in ended[:-MAX_ENDED_VERSIONS]:
        del versions[number]


def _domain_error(error: Exception) -> ServableError:
    return error if isinstance(error, ServableError) else InternalError(f"{type(error).__name__}: {error}")


def _id(name: str, version: _Version) -> str:
    return f"{{name: {name} version: {version.goal.version}}}"
