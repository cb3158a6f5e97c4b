from __future__ import annotations

import pytest
from servable.errors import InvalidArgumentError, ServableError, reading


def test_a_status_reads_as_tensorflow_prints_it() -> None:
    assert InvalidArgumentError("bad").status == "INVALID_ARGUMENT: bad"
    assert ServableError("gone", code="DATA_LOSS").status == "DATA_LOSS: gone"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (FileNotFoundError(2, "No such file or directory"), "NOT_FOUND: /f; No such file or directory"),
        (PermissionError(13, "Permission denied"), "PERMISSION_DENIED: /f; Permission denied"),
        (IsADirectoryError(21, "Is a directory"), "UNKNOWN: /f; Is a directory"),
    ],
)
def test_files_that_cannot_be_read(error: OSError, status: str) -> None:
    assert reading("/f", error).status == status
