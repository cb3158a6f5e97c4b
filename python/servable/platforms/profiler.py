"""TensorFlow's profiler: the extension module of its Python package, opened by its path.

It works on the libraries that the engine has opened in this process, and does not need TensorFlow's Python, which is
slow to import and large. Nobody has promised that this module stays as it is: where it is not what is expected, there
is no profiler.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from servable.errors import UnimplementedError

__all__ = ["ProfilerSession", "open_profiler"]

MODULE = "_pywrap_profiler"
PLACES = ("python/profiler/internal",)


class ProfilerSession:
    """One profile, from start to stop."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def start(self) -> None:
        # No folder and no options: nothing is written, and what is collected is what TensorFlow thinks right.
        self._session.start("", {})

    def stop(self) -> bytes:
        trace: bytes = self._session.stop()
        return trace


def open_profiler(find_package: Callable[[str], Path | None]) -> ProfilerSession:
    """A session of the installed TensorFlow's profiler. `UnimplementedError` where it has none that is known here."""
    from importlib.util import module_from_spec, spec_from_file_location

    folder = find_package("tensorflow")
    paths = [folder / place / f"{MODULE}.so" for place in PLACES] if folder else []
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        raise UnimplementedError("this TensorFlow has no profiler where it is looked for")
    try:
        spec = spec_from_file_location(MODULE, path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{path} is no module")
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        return ProfilerSession(module.ProfilerSession())
    except (ImportError, AttributeError) as error:
        raise UnimplementedError(f"TensorFlow's profiler cannot be opened: {error}") from error
