"""What the documents about deployment and security point at is there."""

from __future__ import annotations

import re

from tests.e2e.server import REPOSITORY


def test_tests_that_the_threat_model_names_exist() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", (REPOSITORY / "docs" / "threat-model.md").read_text())
    assert len(named) > 10
    for file, name in named:
        text = (REPOSITORY / file).read_text()
        assert not name or f"def {name}(" in text, f"{file} has no {name}"


def test_files_that_the_guide_names_exist() -> None:
    named = re.findall(r"deploy/[\w./-]+\w", (REPOSITORY / "docs" / "deployment.md").read_text())
    assert named
    for path in named:
        assert (REPOSITORY / path).exists(), path
