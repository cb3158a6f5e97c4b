"""`servable demo`: two models and a picture that come along."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import servable
import tensorflow as tf

from tests.e2e.rest_client import Rest
from tests.e2e.server import DEMO, ServerProcess

PICTURE = DEMO / "digits.png"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    log = tmp_path_factory.mktemp("demo") / "log"
    with ServerProcess([], log, arguments=["servable", "demo"]) as server:
        yield server.wait_ready()


@pytest.fixture
def demo_rest(demo: ServerProcess) -> Iterator[Rest]:
    with Rest(demo.rest_port) as client:
        yield client


def test_half_plus_two_is_served(demo_rest: Rest) -> None:
    assert demo_rest.predict("half_plus_two", {"instances": [1.0, 2.0, 5.0]}).json == {"predictions": [2.5, 3.0, 4.5]}


def check_digits(found: Any) -> None:
    """The digits are found, and each where it is; the order is free."""
    expected = json.loads((DEMO / "digits.json").read_text())
    boxes, classes = np.array(found["detection_boxes"]), found["detection_classes"]
    assert sorted(classes) == sorted(expected["digits"])
    for digit, box in zip(expected["digits"], expected["boxes"], strict=True):
        np.testing.assert_allclose(boxes[classes.index(digit)], box, atol=0.05)
    assert min(found["detection_scores"]) > 0.5


def test_the_digits_in_the_picture_are_found(demo_rest: Rest) -> None:
    encoded = base64.b64encode(PICTURE.read_bytes()).decode()
    answer = demo_rest.predict("yolo_digit", {"instances": [{"b64": encoded}]})
    assert answer.status == 200, answer
    (found,) = answer.json["predictions"]
    check_digits(found)


def test_the_digits_are_found_in_pixels_as_well(demo_rest: Rest) -> None:
    pixels = tf.io.decode_png(PICTURE.read_bytes()).numpy().tolist()
    answer = demo_rest.predict("yolo_digit", {"signature_name": "pixels", "instances": [pixels]})
    assert answer.status == 200, answer
    (found,) = answer.json["predictions"]
    check_digits(found)


def test_what_is_no_picture_is_refused(demo_rest: Rest) -> None:
    answer = demo_rest.predict("yolo_digit", {"instances": ["no picture"]})
    assert answer.status == 400
    assert "image" in answer.error.lower()


def test_the_demo_prints_requests_for_its_port(demo: ServerProcess) -> None:
    assert f"http://localhost:{demo.rest_port}/v1/models/half_plus_two:predict" in demo.log
    # That of the package, wherever it is installed.
    assert str(Path(servable.__file__).parent / "demo" / PICTURE.name) in demo.log
