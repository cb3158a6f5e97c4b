from __future__ import annotations

import pytest
from servable.config.place import Lines, Place

SEPARATE = """model_config_list {
  config { name: "a" }  # config { name: "no" }
  config {
    base_path: "/config {"
    name: "b" }
}"""

LISTED = """model_config_list: {
  config: [
    { name: "a" },
    <
      name: "b"
    >
  ]
}"""


@pytest.mark.parametrize(("text", "lines"), [(SEPARATE, (2, 5)), (LISTED, (3, 5))], ids=["separate", "listed"])
def test_fields_have_lines(text: str, lines: tuple[int, int]) -> None:
    found = Lines(text, 2)
    assert (found.of(0, "name"), found.of(1, "name")) == lines


def test_a_field_that_is_not_there_has_the_line_of_its_entry() -> None:
    assert Lines(SEPARATE, 2).of(1, "model_platform") == 3
    assert Lines(LISTED, 2).of(1, "model_platform") == 4


def test_an_odd_text_has_no_lines() -> None:
    lines = Lines("", 1)
    assert lines.of(0, "name") is None
    assert Place("models.config", lines, 0).of("name") == "models.config, field name"
