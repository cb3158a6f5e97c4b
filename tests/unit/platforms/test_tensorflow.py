from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
from servable.config.batching import BatchingParameters, PlatformBatching, spec_of
from servable.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError, ServableError
from servable.platforms.base import PlatformSettings
from servable.platforms.tensorflow import LIBRARIES, TensorFlowPlatform, find_package
from servable.types import BatchingSpec, SessionSpec

from tests.e2e.server import MODELS
from tests.unit.fakes import FakeCodec, FakeServable

if TYPE_CHECKING:
    from servable.engine import EngineError, Runtime, Servable


class FakeEngineError(Exception):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code, self.message = code, message


class FakeRuntime:
    """Loads a model if its ops are registered. A library registers the op that it is named after."""

    version = "2.21.0"

    def __init__(self, *ops: str) -> None:
        self.ops = ops
        self.registered: list[str] = []
        self.opened: list[tuple[str, str]] = []
        self.sessions: list[SessionSpec] = []
        self.batchings: list[BatchingSpec | None] = []

    def open(self, framework: str, library: str) -> Runtime:
        self.opened.append((framework, library))
        return cast("Runtime", self)

    def register_ops(self, library: str) -> None:
        if "bad" in library:
            raise FakeEngineError("NOT_FOUND", "undefined symbol")
        self.registered.append(Path(library).stem)

    def load(
        self, name: str, version: int, path: str, session: SessionSpec, batching: BatchingSpec | None = None
    ) -> Servable:
        self.sessions.append(session)
        self.batchings.append(batching)
        if path.endswith("absent"):
            raise FakeEngineError("NOT_FOUND", "Could not find SavedModel")
        for op in self.ops:
            if op not in self.registered:
                raise FakeEngineError("NOT_FOUND", f"Op type not registered '{op}' in binary running on host.")
        return cast("Servable", f"{name}/{version}")


class World:
    def __init__(
        self, folder: Path, *ops: str, op_libraries: tuple[str, ...] = (), batching: PlatformBatching | None = None
    ) -> None:
        self.folder = folder
        self.path = self.install("m/1/saved_model.pb").parent
        self.runtime = FakeRuntime(*ops)
        self.platform = TensorFlowPlatform(
            PlatformSettings(SessionSpec(), op_libraries, batching=batching or PlatformBatching()),
            open_runtime=self.runtime.open,
            engine_error=cast("type[EngineError]", FakeEngineError),
            find_package=self._find,
            warm_up=self._warm_up,
            codec=FakeCodec(),
        )
        self.warmed_up: list[tuple[object, str, Sequence[int]]] = []

    def _find(self, module: str) -> Path | None:
        return self.folder / module if (self.folder / module).exists() else None

    def _warm_up(self, servable: object, path: str, batch_sizes: Sequence[int]) -> None:
        self.warmed_up.append((servable, path, batch_sizes))
        if path.endswith("cold"):
            raise ServableError("too cold", code="DATA_LOSS")

    def install(self, *files: str) -> Path:
        """Make empty files, and tell where the last one is."""
        for file in files:
            (self.folder / file).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / file).touch()
        return self.folder / files[-1]

    def load(self, path: Path | None = None, own: BatchingParameters | None = None) -> object:
        return self.platform.loader("m", 1, str(path or self.path), own).load()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tensorflow").mkdir()
    for library in LIBRARIES:
        (tmp_path / "tensorflow" / library).touch()
    return tmp_path


def test_the_libraries_are_opened_once_and_in_order(folder: Path) -> None:
    world = World(folder)
    assert not world.runtime.opened
    world.load()
    world.load()
    assert [[Path(path).name for path in paths] for paths in world.runtime.opened] == [list(LIBRARIES)]


def test_without_tensorflow_the_error_tells_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(FailedPreconditionError, match=r"pip install 'servable\[tensorflow-cpu\]'"):
        World(tmp_path).load()


def test_a_tensorflow_without_the_library_is_named(tmp_path: Path) -> None:
    (tmp_path / "tensorflow").mkdir()
    with pytest.raises(FailedPreconditionError, match=f"lacks {LIBRARIES[0]}"):
        World(tmp_path).load()


def test_errors_of_tensorflow_keep_their_code(folder: Path, tmp_path: Path) -> None:
    model = tmp_path / "absent"
    model.mkdir()
    (model / "saved_model.pb").touch()
    with pytest.raises(ServableError) as caught:
        World(folder).load(model)
    assert caught.value.code == NotFoundError.code
    assert caught.value.message == f"Could not find SavedModel; the SavedModel is in {model}"


def test_a_folder_without_a_saved_model_is_called_that(folder: Path) -> None:
    world = World(folder)
    with pytest.raises(NotFoundError) as caught:
        world.platform.loader("m", 1, "/absent")
    assert caught.value.message.splitlines() == [
        "Specified file path does not appear to contain a SavedModel bundle (should have a file called "
        "`saved_model.pb`)",
        "Specified file path: /absent",
    ]


def test_a_graph_whose_variables_are_missing_is_not_loaded(folder: Path, tmp_path: Path) -> None:
    model = tmp_path / "1"
    shutil.copytree(MODELS / "counter" / "1", model)
    world = World(folder)
    assert world.load(model) == "m/1"
    shutil.rmtree(model / "variables")
    with pytest.raises(NotFoundError, match=r"/1 has no variables/variables\.index"):
        world.platform.loader("m", 1, str(model))


@pytest.mark.parametrize("come_too", [False, True])
def test_a_version_whose_graph_came_while_it_was_loaded_needs_variables_from_before(
    folder: Path, come_too: bool
) -> None:
    """As TensorFlow may have seen it: a whole graph, and nothing to restore."""
    events: list[str] = []
    world = World(folder)
    model = folder / "copied/1"
    shutil.copytree(MODELS / "counter/1", model)
    (model / "variables").rename(folder / "variables")
    whole = (model / "saved_model.pb").read_bytes()
    (model / "saved_model.pb").write_bytes(whole[: len(whole) // 2])

    def load() -> Servable:
        (model / "saved_model.pb").write_bytes(whole)
        if come_too and not (model / "variables").exists():
            (folder / "variables").rename(model / "variables")
        return cast("Servable", FakeServable("m", 1, events))

    world.runtime.load = lambda *arguments: load()  # type: ignore[method-assign]
    with pytest.raises(NotFoundError, match=r"/1 had no variables/variables\.index when it was loaded"):
        world.load(model)
    assert events == ["unload m/1"]
    assert world.warmed_up == []
    if come_too:
        assert world.load(model)


def test_a_version_is_warmed_up_before_it_is_handed_over(folder: Path) -> None:
    world = World(folder)
    assert world.warmed_up == []
    servable = world.load()
    assert world.warmed_up == [(servable, str(world.path), ())]


def test_a_version_is_warmed_up_for_the_sizes_of_its_batches(folder: Path) -> None:
    world = World(folder)
    world.load(own=BatchingParameters(max_batch_size=8, allowed_batch_sizes=(4, 8)))
    assert [sizes for _, _, sizes in world.warmed_up] == [(4, 8)]


def test_a_version_that_cannot_be_warmed_up_is_unloaded(folder: Path) -> None:
    events: list[str] = []
    world = World(folder)
    world.runtime.load = lambda *arguments: cast("Servable", FakeServable("m", 1, events))  # type: ignore[method-assign]
    with pytest.raises(ServableError, match="too cold"):
        world.load(world.install("cold/saved_model.pb").parent)
    assert events == ["unload m/1"]


def test_custom_op_libraries_are_registered_before_any_model(folder: Path) -> None:
    world = World(folder, "MyOp", op_libraries=("/libs/MyOp.so",))
    assert world.load() == "m/1"


def test_a_custom_op_library_that_does_not_load_is_named(folder: Path) -> None:
    world = World(folder, op_libraries=("/libs/bad.so",))
    with pytest.raises(FailedPreconditionError, match=r"The custom op library /libs/bad\.so cannot be loaded"):
        world.load()


def test_ops_of_installed_packages_are_registered_when_needed(folder: Path) -> None:
    world = World(folder, "SentencepieceOp", "SimpleMLInferenceOp")
    world.install("tensorflow_text/python/ops/_a.so", "tensorflow_text/python/ops/_b.so")
    world.install("tensorflow_decision_forests/tensorflow/ops/inference/inference.so")
    world.runtime.registered += ["SimpleMLInferenceOp"]
    with pytest.raises(ServableError):  # _a and _b register ops of their own only
        world.load()
    assert world.runtime.registered == ["SimpleMLInferenceOp", "_a", "_b"]


def test_a_load_succeeds_once_its_ops_are_registered(folder: Path) -> None:
    world = World(folder, "_SentencepieceOp")
    world.runtime.ops = ("SentencepieceOp",)
    world.install("tensorflow_text/python/ops/_SentencepieceOp.so")
    world.runtime.register_ops = lambda library: world.runtime.registered.append(Path(library).stem[1:])  # type: ignore[method-assign]
    assert world.load() == "m/1"


def test_a_package_that_is_not_installed_is_named(folder: Path) -> None:
    with pytest.raises(FailedPreconditionError) as caught:
        World(folder, "SentencepieceOp").load()
    assert caught.value.message == (
        "Op type not registered 'SentencepieceOp'. It comes with tensorflow-text, which is not installed: "
        "pip install tensorflow-text (the version made for TensorFlow 2.21.0)"
    )


def test_a_package_for_another_tensorflow_is_named(folder: Path) -> None:
    world = World(folder, "SentencepieceOp")
    world.install("tensorflow_text/python/ops/_bad.so")
    with pytest.raises(FailedPreconditionError, match=r"does not load with TensorFlow 2\.21\.0"):
        world.load()


def test_an_op_that_nobody_knows_points_to_the_flag(folder: Path) -> None:
    with pytest.raises(FailedPreconditionError, match="registers MyOp, name it with --custom_op_library"):
        World(folder, "MyOp").load()


def test_packages_are_found_without_importing_them() -> None:
    assert find_package("no_such_package_at_all") is None
    found = find_package("servable")
    assert found is not None
    assert found.name == "servable"


def test_a_version_may_say_how_its_sessions_are_made(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    world = World(folder)
    extra = folder / "m" / "1" / "assets.extra"
    extra.mkdir(parents=True)
    world.load()
    assert world.runtime.sessions[-1] == SessionSpec()
    (extra / "saved_model_config.pb").write_text('{"session_overrides": {"disable_meta_optimizer": true}}')
    world.load()
    assert b'"disable_meta_optimizer": true' in world.runtime.sessions[-1].config
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    (extra / "saved_model_config.pb").write_text("nonsense")
    world.load()
    assert world.runtime.sessions[-1] == SessionSpec()
    assert "Failed to load saved model config: " in caplog.text


def test_requests_are_batched_as_platform_and_model_say(folder: Path) -> None:
    unbatched, batched = World(folder), World(folder, batching=PlatformBatching(parameters=BatchingParameters()))
    own = BatchingParameters(max_batch_size=8)
    for world in (unbatched, batched):
        world.load()
        world.load(own=own)
    assert unbatched.runtime.batchings == [None, spec_of("m", PlatformBatching(), own, None)]
    usual, special = batched.runtime.batchings
    assert usual is not None
    assert special is not None
    assert (usual.max_batch_size, special.max_batch_size) == (1000, 8)


def test_a_version_may_say_how_it_is_batched(folder: Path) -> None:
    world = World(folder, batching=PlatformBatching(parameters=BatchingParameters(), per_version=True))
    file = world.path / "batching_params.pbtxt"
    world.load()
    file.write_text('{"max_batch_size": 8}')
    world.load()
    first, second = world.runtime.batchings
    assert first is None
    assert second is not None
    assert second.max_batch_size == 8
    elsewhere = World(folder)
    elsewhere.load()
    assert elsewhere.runtime.batchings == [None]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("max_batch", "Invalid protobuf file: '{file}': 1:1: Expecting value"),
        ('{"max_batch_size": 0}', "input_batch_size_limit must be positive; was 0"),
    ],
)
def test_batching_that_cannot_be_fails_the_load(folder: Path, content: str, message: str) -> None:
    world = World(folder, batching=PlatformBatching(parameters=BatchingParameters(), per_version=True))
    file = world.path / "batching_params.pbtxt"
    file.write_text(content)
    with pytest.raises(InvalidArgumentError) as caught:
        world.load()
    assert caught.value.message == message.format(file=file)
    assert world.runtime.sessions == []


def test_a_file_of_batching_that_cannot_be_read_fails_the_load(folder: Path) -> None:
    world = World(folder, batching=PlatformBatching(parameters=BatchingParameters(), per_version=True))
    (world.path / "batching_params.pbtxt").mkdir()
    with pytest.raises(ServableError, match=r"batching_params\.pbtxt; Is a directory"):
        world.load()
