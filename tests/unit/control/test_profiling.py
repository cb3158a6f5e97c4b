"""The profiler service, with a session and a codec of the test's own."""

from __future__ import annotations

import base64
import json
import threading

import pytest
from servable.control.profiling import LONGEST_S, Profiling
from servable.errors import ServableError


class Codec:
    """Messages are their JSON."""

    def decode_message(self, message: str, data: bytes) -> str:
        return data.decode()

    def encode_json(self, message: str, text: str) -> bytes:
        return text.encode()

    def encode_text(self, message: str, text: str) -> bytes:
        raise NotImplementedError


class Session:
    def __init__(self, trace: bytes = b"trace") -> None:
        self.trace = trace
        self.started = threading.Event()
        self.is_stopped = False

    def start(self) -> None:
        self.started.set()

    def stop(self) -> bytes:
        self.is_stopped = True
        return self.trace


def profiling(session: Session, stopped: threading.Event | None = None) -> Profiling:
    return Profiling(lambda: session, Codec(), stopped or threading.Event())


def asked(duration_ms: int) -> bytes:
    return json.dumps({"duration_ms": duration_ms}).encode()


def test_a_profile_is_what_the_session_collected() -> None:
    session = Session()
    answer = json.loads(profiling(session).answer("Profile", asked(1)))
    assert answer == {"tool_data": [{"name": "xplane.pb", "data": base64.b64encode(b"trace").decode()}]}
    assert session.is_stopped


def test_an_empty_profile_says_so() -> None:
    assert json.loads(profiling(Session(b"")).answer("Profile", asked(1))) == {"empty_trace": True}


@pytest.mark.parametrize("duration_ms", [0, int(LONGEST_S * 1000) + 1])
def test_odd_durations_are_refused(duration_ms: int) -> None:
    with pytest.raises(ServableError, match=f"duration_ms is {duration_ms}"):
        profiling(Session()).answer("Profile", asked(duration_ms))


@pytest.mark.parametrize("end", ["Terminate", "stop"])
def test_one_profile_at_a_time_until_somebody_ends_it(end: str) -> None:
    session, stopped = Session(), threading.Event()
    service = profiling(session, stopped)
    first = threading.Thread(target=service.answer, args=("Profile", asked(int(LONGEST_S * 1000))))
    first.start()
    assert session.started.wait(30)
    with pytest.raises(ServableError, match="another profile") as caught:
        service.answer("Profile", asked(1))
    assert caught.value.code == "UNAVAILABLE"
    if end == "stop":
        stopped.set()
    else:
        service.answer("Terminate", b"{}")
    first.join(30)
    assert session.is_stopped


def test_other_calls_are_not_there() -> None:
    for name in ("Monitor", "StopContinuousProfiling"):
        with pytest.raises(ServableError) as caught:
            profiling(Session()).answer(name, b"{}")
        assert caught.value.code == "UNIMPLEMENTED"
