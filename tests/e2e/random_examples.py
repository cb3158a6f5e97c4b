"""Random examples for the model of trees, as messages and as the JSON that means the same."""

from __future__ import annotations

import base64
from typing import Any

from tensorflow.core.example import example_pb2

from tests.e2e.random_tensors import Generator
from tests.e2e.tensorflow_models import FLOAT_FEATURES

COLOURS = [b"red", b"green", b"", b"\xff\x00", "grün".encode()]


def random_examples(count: int, random: Generator) -> list[Any]:
    return [random_example(random) for _ in range(count)]


def random_example(random: Generator) -> Any:
    """What has a default may be missing, and there may be features that nobody asks for."""
    example = example_pb2.Example()
    feature = example.features.feature
    feature["sizes"].float_list.value.extend(random.standard_normal(FLOAT_FEATURES).tolist())
    if random.random() < 0.7:
        feature["count"].int64_list.value.append(int(random.integers(-3, 4)))
    if random.random() < 0.7:
        feature["colour"].bytes_list.value.append(COLOURS[random.integers(len(COLOURS))])
    if random.random() < 0.7:
        feature["tags"].int64_list.value.extend(random.integers(-2, 3, random.integers(4)).tolist())
    if random.random() < 0.3:
        feature["unused \u00fc"].bytes_list.value.append(random.bytes(5))
    return example


def to_json(example: Any) -> dict[str, Any]:
    """As a client of REST writes it: one value may go without its list."""
    return {name: _values(feature) for name, feature in example.features.feature.items()}


def _values(feature: Any) -> Any:
    kind = feature.WhichOneof("kind")
    values = list(getattr(feature, kind).value) if kind else []
    if kind == "bytes_list":
        values = [{"b64": base64.b64encode(value).decode()} for value in values]
    return values[0] if len(values) == 1 else values
