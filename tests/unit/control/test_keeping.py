"""Files that are read again: whatever goes wrong with one, it is looked at again, and so are the others."""

from __future__ import annotations

import logging
import threading

import pytest
from servable.control.keeping import Kept, keep_reading

DEADLINE_S = 30.0


def test_no_error_ends_the_looks(caplog: pytest.LogCaptureFixture) -> None:
    stopped, is_done = threading.Event(), threading.Event()
    looks, applied = iter(range(100)), []

    def read() -> int:
        look = next(looks)
        if 1 <= look <= 3:
            raise RuntimeError("nobody has thought of this")
        return look

    def apply(said: int) -> None:
        applied.append(said)
        if said == 6:
            is_done.set()
        if said == 4:
            raise TypeError("nor of that")

    kept = Kept("Odd", read, apply, OSError)
    other = Kept("Other", lambda: 1, lambda said: None, OSError)
    kept.start()
    with caplog.at_level(logging.INFO):
        thread = threading.Thread(target=keep_reading, args=([kept, other], 0.001, stopped), daemon=True)
        thread.start()
        assert is_done.wait(DEADLINE_S)
        stopped.set()
        thread.join(DEADLINE_S)
    assert applied[:4] == [0, 4, 5, 6]
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert errors == [
        "Odd: RuntimeError: nobody has thought of this; what was in use before stays",
        "Odd: TypeError: nor of that; what was in use before stays",
    ]
    assert all(record.exc_info for record in caplog.records if record.levelno == logging.ERROR)
    assert "Other: what has changed is in use" in caplog.text
