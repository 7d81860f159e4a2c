"""
The example in `integrations/envoy` is what its README renders, and Envoy takes it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tenancy.mesh import Document, validate

FOLDER = Path(__file__).parents[2] / "integrations" / "envoy"


def rendered() -> Document:
    (block,) = re.findall(r"```python\n(.*?)```", (FOLDER / "README.md").read_text("utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(block, "README.md", "exec"), names)
    document: Document = names["document"]
    return document


def test_the_example_is_what_the_readme_renders() -> None:
    """If this fails after a change to the renderer, write the new text to the file and read the difference."""
    head, _, text = (FOLDER / "envoy.yaml").read_text("utf-8").partition("\n")
    assert head == "# Rendered; see README.md."
    assert text == rendered().to_yaml()


@pytest.mark.service
def test_envoy_takes_the_example(envoy_binary: str) -> None:
    """As it is read from the file."""
    assert validate(yaml.safe_load((FOLDER / "envoy.yaml").read_text("utf-8")), envoy=envoy_binary) == []
