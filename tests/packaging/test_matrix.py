from __future__ import annotations

import re
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import pytest

from tenancy import instrumentation

from .matrix import CORE, EXTRAS, NOT_ALONE, TOGETHER, Row

ROOT = Path(__file__).parents[2]


def test_every_extra_has_its_line() -> None:
    """An extra that is declared is tried alone, and one that is tried is declared."""
    assert set(EXTRAS) | NOT_ALONE == set(metadata.metadata("request-tenancy").get_all("Provides-Extra") or ())


def test_all_means_all() -> None:
    """The extra `all` brings every other but OpenTelemetry's own instrumentations."""
    (line,) = re.findall(r'^all = \["request-tenancy\[(.+)\]"\]$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert set(line.split(",")) == set(EXTRAS)


def test_every_library_that_is_instrumented_has_its_line() -> None:
    """Each name of `tenancy.instrument` is one extra's, or needs none."""
    names = [name for row in (CORE, *EXTRAS.values()) for name in row.instruments]
    assert sorted(names) == sorted(instrumentation._ADAPTERS)


@pytest.mark.parametrize("row", [CORE, *EXTRAS.values()], ids=["core", *EXTRAS])
def test_what_a_line_names_is_there(row: Row) -> None:
    """Modules can be found, and tests exist."""
    assert find_spec(row.package)
    assert all(find_spec(module) for module in row.modules)
    assert all((ROOT / path).exists() for path in (*row.tests, *TOGETHER))


def test_every_adapter_has_its_line() -> None:
    """No module that imports a client library is left out of the table."""
    guarded = {
        ".".join(path.relative_to(ROOT / "src").with_suffix("").parts)
        for path in (ROOT / "src").rglob("*.py")
        if re.search(r"^with extra\(", path.read_text(), re.MULTILINE)
    }
    modules = {module for row in EXTRAS.values() for module in row.modules}
    assert {
        module for module in guarded if not any(module == known or module.startswith(f"{known}.") for known in modules)
    } == set()
