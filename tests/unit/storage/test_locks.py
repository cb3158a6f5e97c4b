from __future__ import annotations

import os
from pathlib import Path

import pytest
from servable.storage.locks import lock


def test_a_folder_that_is_removed_while_it_is_made_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_folder, answers = os.path.isdir, [False]
    (tmp_path / "a").mkdir()

    def removed_meanwhile(path: str) -> bool:
        if answers:
            os.rmdir(path)
            return answers.pop()
        return is_folder(path)

    monkeypatch.setattr(os.path, "isdir", removed_meanwhile)
    held = lock(str(tmp_path / "a" / "lock"), alone=True)
    assert held is not None
    held.release()


def test_a_file_in_the_place_of_a_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(NotADirectoryError):
        lock(str(tmp_path / "a" / "lock"), alone=True)
