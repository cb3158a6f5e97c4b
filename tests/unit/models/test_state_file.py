from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from servable.config.model_config import ModelConfig
from servable.errors import ServableError
from servable.models.overlay import Overlay
from servable.models.state_file import StateFile

from tests.unit.fakes import FakeCodec

OVERLAY = Overlay().with_model(ModelConfig("a", "/a", labels={"stable": 1})).without_model("b", "b")


def state_file(path: Path) -> StateFile:
    return StateFile(str(path), FakeCodec())


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "state"
    assert state_file(path).read() == Overlay()
    for overlay in (OVERLAY, Overlay(), OVERLAY):
        state_file(path).write(overlay)
        assert state_file(path).read() == overlay
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["state"]


def test_a_half_written_file_of_a_dead_server_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "state"
    state_file(path).write(OVERLAY)
    (tmp_path / "state.new").write_text('{"form')
    assert state_file(path).read() == OVERLAY
    state_file(path).write(Overlay())
    assert os.listdir(tmp_path) == ["state"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "state")
    state_file(tmp_path / "link").write(OVERLAY)
    assert (tmp_path / "link").is_symlink()
    assert state_file(tmp_path / "state").read() == OVERLAY


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "Expecting value"),
        (b"[]", "list indices"),
        (b"{}", "'format' is missing"),
        (b'{"format": 2}', "its format is 2, this version knows 1"),
        (b'{"format": 1, "models": []}', "'removed' is missing"),
        (b'{"format": 1, "models": [{}], "removed": [], "labels": {}}', "Illegal setting neither"),
        (b"\xff", "can't decode"),
    ],
)
def test_a_file_that_cannot_be_understood_is_named_with_what_to_do(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "state"
    path.write_bytes(content)
    with pytest.raises(ServableError) as caught:
        state_file(path).read()
    assert caught.value.code == "DATA_LOSS"
    assert caught.value.message.startswith(f"The model state file {path} cannot be understood: ")
    assert reason in caught.value.message
    assert "remove it" in caught.value.message
    assert path.read_bytes() == content


def test_a_folder_that_is_missing_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ServableError, match="does not exist; make it"):
        state_file(tmp_path / "missing" / "state").read()


def test_a_failed_write_keeps_what_there_was(tmp_path: Path) -> None:
    path = tmp_path / "state"
    state_file(path).write(OVERLAY)
    (tmp_path / "state.new").mkdir()  # nothing can be written there
    with pytest.raises(ServableError, match="cannot be written, so nothing was changed"):
        state_file(path).write(Overlay())
    assert state_file(path).read() == OVERLAY
