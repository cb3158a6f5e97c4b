"""The contract of a platform, and the table of platforms: what `model_platform` may name."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

from servable.config.batching import BatchingParameters, PlatformBatching
from servable.errors import FailedPreconditionError
from servable.types import SessionSpec, WarmupOptions
from servable.warmup.replay import CountWarmup, count_nothing

if TYPE_CHECKING:
    from servable.models.loader import Loader

__all__ = ["PLATFORMS", "Platform", "PlatformFactory", "PlatformSettings", "Platforms"]

PLATFORMS: Mapping[str, str] = {"tensorflow": "servable.platforms.tensorflow:open_tensorflow"}
"""Import strings of `PlatformFactory`s by the names that configuration uses."""


@dataclass(frozen=True)
class PlatformSettings:
    """What the command line says to platforms, and to whom they tell what they count."""

    session: SessionSpec
    op_libraries: tuple[str, ...] = ()
    warmup: WarmupOptions = field(default_factory=WarmupOptions)
    count_warmup: CountWarmup = count_nothing
    batching: PlatformBatching = field(default_factory=PlatformBatching)


class Platform(Protocol):
    """A kind of models. There is one object per name and process; it must be quick to make."""

    def loader(self, name: str, version: int, path: str, batching: BatchingParameters | None = None) -> Loader:
        """A loader for one attempt to load the model version in the folder `path`, whose requests are batched as its
        model's configuration says, if it says anything.

        Called from threads of the pool for fetching, several at a time, once per attempt, while older versions serve:
        whoever finds here that the version cannot be loaded costs none of these. `ServableError` with code
        FAILED_PRECONDITION or UNIMPLEMENTED if another attempt cannot succeed either.
        """

    def memory(self, size_bytes: int) -> Mapping[str, int]:
        """Estimate of the memory that a version with files of this size takes, by kind: `ram`, `gpu`."""

    def capacity(self) -> Mapping[str, int]:
        """Memory that there is in all, by kind, as far as the platform knows. May take a second; called on threads of
        the pool for fetching.
        """


class PlatformFactory(Protocol):
    def __call__(self, settings: PlatformSettings) -> Platform: ...


class Platforms:
    """Opens each platform when it is first needed, once. `settings` are by name: those that configuration uses."""

    def __init__(self, settings: Mapping[str, PlatformSettings]) -> None:
        self._settings = settings
        self._opening = threading.Lock()  # guards the platforms
        self._platforms: dict[str, Platform] = {}

    def get(self, name: str) -> Platform:
        """The platform called `name`: one of `PLATFORMS`, or one for SavedModels that a platform file has named."""
        with self._opening:
            if name not in self._platforms:
                self._platforms[name] = _factory(name)(self._settings[name])
            return self._platforms[name]


def _factory(name: str) -> PlatformFactory:
    module, _, attribute = PLATFORMS.get(name, PLATFORMS["tensorflow"]).partition(":")
    try:
        return cast(PlatformFactory, getattr(import_module(module), attribute))
    except ImportError as error:
        raise FailedPreconditionError(f"Platform {name} cannot be used: {error}") from error
