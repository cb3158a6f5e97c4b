"""SavedModels, run by the TensorFlow that is installed next to us: through its C API, never through its Python."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from servable.config import batching, saved_model_config
from servable.config.batching import BatchingParameters
from servable.config.codec import Codec
from servable.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError, ServableError, reading
from servable.platforms.base import PlatformSettings
from servable.platforms.ops import OpPackage, missing_op, package_of
from servable.storage.saved_model import (
    SAVED_MODEL_FILES,
    VARIABLES_INDEX,
    has_saved_model,
    has_variables,
    lacks_variables,
    saves_variables,
)
from servable.types import BatchingSpec, SessionSpec
from servable.warmup.replay import WarmUp

if TYPE_CHECKING:
    from servable.engine import EngineError, Runtime, Servable

__all__ = ["TensorFlowPlatform", "find_package", "open_tensorflow"]

log = logging.getLogger(__name__)

LIBRARIES = ("libtensorflow_framework.2.dylib", "libtensorflow_cc.2.dylib")
if sys.platform != "darwin":
    LIBRARIES = ("libtensorflow_framework.so.2", "libtensorflow_cc.so.2")
"""The framework, and the library with the C API; both lie in the package's folder."""

ENVIRONMENT = {
    "TF_CPP_MIN_LOG_LEVEL": "1",  # without INFO
    # TensorFlow's own allocator for large tensors never gives memory back: that of an unloaded version would stay.
    "TF_ONEDNN_USE_SYSTEM_ALLOCATOR": "1",
}
"""What TensorFlow is told through its environment, unless the user has said something else."""

RAM_ESTIMATE = 1.2
"""Memory that a version takes, as a multiple of the size of its files: TensorFlow Serving's figure."""

INSTALL = "pip install 'servable[tensorflow-cpu]', or 'servable[tensorflow]' for GPUs"


def open_tensorflow(settings: PlatformSettings) -> TensorFlowPlatform:
    """The platform on the compiled engine and the installed packages."""
    from servable import engine

    warm_up = WarmUp(
        settings.warmup,
        read_records=engine.RecordReader,
        describe_record=engine.describe_record,
        codec=engine,
        engine_error=engine.EngineError,
        count=settings.count_warmup,
    )
    return TensorFlowPlatform(
        settings,
        open_runtime=engine.Runtime.open,
        engine_error=engine.EngineError,
        find_package=find_package,
        warm_up=warm_up.run,
        codec=engine,
    )


def find_package(module: str) -> Path | None:
    """The folder of an installed package, found without importing it."""
    from importlib.util import find_spec

    spec = find_spec(module)
    folders = spec.submodule_search_locations if spec else None
    return Path(next(iter(folders))) if folders else None


class TensorFlowPlatform:
    """Opens TensorFlow's libraries with the first load. Op libraries of packages that a model needs are loaded then."""

    def __init__(
        self,
        settings: PlatformSettings,
        *,
        open_runtime: Callable[[str, str], Runtime],
        engine_error: type[EngineError],
        find_package: Callable[[str], Path | None],
        warm_up: Callable[[Servable, str, Sequence[int]], None],
        codec: Codec,
    ) -> None:
        self._settings = settings
        self._open_runtime = open_runtime
        self._engine_error = engine_error
        self._find_package = find_package
        self._warm_up = warm_up
        self._codec = codec
        self._opening = threading.Lock()  # guards what follows; held while libraries are loaded
        self._runtime: Runtime | None = None
        self._registered: set[str] = set()
        self._capacity: Mapping[str, int] | None = None

    def loader(
        self, name: str, version: int, path: str, batching: BatchingParameters | None = None
    ) -> SavedModelLoader:
        _check_whole(path)
        return SavedModelLoader(self, name, version, path, self._batching(name, path, batching))

    def memory(self, size_bytes: int) -> Mapping[str, int]:
        """In RAM, where there is a GPU also there: that is where its variables are."""
        return {"ram": int(size_bytes * RAM_ESTIMATE), **dict.fromkeys(self.capacity(), size_bytes)}

    def capacity(self) -> Mapping[str, int]:
        runtime = self._open()
        with self._opening:
            if self._capacity is None:
                devices = runtime.devices(self._settings.session.config)
                gpus = [memory for kind, memory in devices if kind == "GPU"]
                # TensorFlow places a graph on the first one unless it says otherwise.
                self._capacity = {"gpu": gpus[0]} if gpus else {}
            return self._capacity

    def load(self, name: str, version: int, path: str, batched: BatchingSpec | None) -> Servable:
        """Load a SavedModel and warm it up, with the ops of those installed packages that it turns out to need."""
        runtime = self._open()
        if batched is not None:
            log.info(
                "Wrapping session to perform batch processing: {name: %s version: %s}",
                name,
                version,
                extra={"model": name, "version": version},
            )
        session = self._session(name, version, path)
        had_variables = has_variables(path)
        registered: set[str] = set()
        while True:
            try:
                servable = runtime.load(name, version, path, session, batched)
                break
            except self._engine_error as error:
                op = missing_op(error.message)
                if op is None or op in registered:
                    place = "" if path in error.message else f"; the SavedModel is in {path}"
                    raise ServableError(error.message + place, code=error.code) from error
                self._register(runtime, op, error.message)
                registered.add(op)
        try:
            # The graph of a version that is copied in place may have come meanwhile, and before its variables.
            if not (had_variables and has_variables(path)) and saves_variables(path):
                raise NotFoundError(f"{path} had no {VARIABLES_INDEX} when it was loaded, but its graph has variables")
            self._warm_up(servable, path, batched.allowed_batch_sizes if batched else ())
        except BaseException:
            servable.unload(None)
            raise
        return servable

    def _session(self, name: str, version: int, path: str) -> SessionSpec:
        """How this version's session is made: as all are, but for what the SavedModel itself says."""
        session = self._settings.session
        try:
            config = saved_model_config.find(path, self._codec)
            if config is None:
                return session
            session = replace(session, config=saved_model_config.overridden(session.config, config, self._codec))
        except (OSError, ValueError) as error:
            log.warning(
                "Failed to load saved model config: %s/%s in %s: %s",
                name,
                version,
                path,
                error,
                extra={"model": name, "version": version},
            )
            return session
        for field in config.ignored:
            log.warning("%s has %s in its saved model config, which has no effect", path, field)
        return session

    def _batching(self, name: str, path: str, own: BatchingParameters | None) -> BatchingSpec | None:
        """How requests for this version are batched. `ServableError` if its file, or what it says, cannot be used."""
        version, file = None, batching.version_file(path)
        if self._settings.batching.per_version:
            try:
                version = batching.find(path, self._codec)
            except OSError as error:
                raise reading(file, error) from error
            except ValueError as error:
                raise InvalidArgumentError(f"Invalid protobuf file: '{file}': {error}") from error
        return batching.spec_of(name, self._settings.batching, own, version)

    def _open(self) -> Runtime:
        with self._opening:
            if self._runtime is None:
                self._runtime = self._opened()
            return self._runtime

    def _opened(self) -> Runtime:
        folder = self._find_package("tensorflow")
        if folder is None:
            raise FailedPreconditionError(f"TensorFlow is not installed: {INSTALL}")
        framework, library = (folder / name for name in LIBRARIES)
        for path in (framework, library):
            if not path.exists():
                raise FailedPreconditionError(
                    f"The TensorFlow installed in {folder} lacks {path.name}; 2.16 or later has it: {INSTALL}"
                )
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        try:
            runtime = self._open_runtime(str(framework), str(library))
        except self._engine_error as error:
            raise FailedPreconditionError(f"TensorFlow in {folder} cannot be opened: {error.message}") from error
        log.info("TensorFlow %s from %s", runtime.version, folder)
        for op_library in self._settings.op_libraries:
            try:
                runtime.register_ops(op_library)
            except self._engine_error as error:
                raise FailedPreconditionError(
                    f"The custom op library {op_library} cannot be loaded: {error.message}"
                ) from error
        return runtime

    def _register(self, runtime: Runtime, op: str, message: str) -> None:
        """Register the ops of the package that brings `op` along, or tell what to do about it."""
        package = package_of(op)
        if package is None:
            raise FailedPreconditionError(
                f"{message} If a library of yours registers {op}, name it with --custom_op_library=<path>."
            )
        with self._opening:
            if package.module in self._registered:
                return
            self._register_package(runtime, op, package)
            self._registered.add(package.module)

    def _register_package(self, runtime: Runtime, op: str, package: OpPackage) -> None:
        folder = self._find_package(package.module)
        if folder is None:
            raise FailedPreconditionError(
                f"Op type not registered '{op}'. It comes with {package.pip_name}, which is not installed: "
                f"pip install {package.pip_name} (the version made for TensorFlow {runtime.version})"
            )
        libraries = sorted(path for pattern in package.libraries for path in folder.glob(pattern))
        log.info("Registering the ops of %s for op %s", package.pip_name, op)
        for library in libraries:
            try:
                runtime.register_ops(str(library))
            except self._engine_error as error:
                raise FailedPreconditionError(
                    f"Op type not registered '{op}'. It comes with {package.pip_name}, but the library {library} does "
                    f"not load with TensorFlow {runtime.version}; install the version made for it. {error.message}"
                ) from error


def _check_whole(folder: str) -> None:
    """`NotFoundError` for what cannot serve, and so must not have another version unloaded for it."""
    if not os.path.isdir(folder) or not has_saved_model(os.listdir(folder)):
        raise NotFoundError(
            "Specified file path does not appear to contain a SavedModel bundle (should have a file called "
            f"`{SAVED_MODEL_FILES[0]}`)\nSpecified file path: {folder}"
        )
    if lacks_variables(folder):
        raise NotFoundError(f"{folder} has no {VARIABLES_INDEX}, but its graph has variables")


class SavedModelLoader:
    """One attempt to load one version."""

    def __init__(
        self, platform: TensorFlowPlatform, name: str, version: int, path: str, batched: BatchingSpec | None
    ) -> None:
        self._platform = platform
        self._name = name
        self._version = version
        self._path = path
        self._batched = batched

    def load(self) -> Servable:
        return self._platform.load(self._name, self._version, self._path, self._batched)
