"""The pytest plugin costs nothing where it is installed and not used."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
(PLUGIN,) = (entry for entry in entry_points(group="pytest11") if entry.name == "tenancy")
FILE = ROOT / "src" / f"{PLUGIN.module.replace('.', '/')}.py"

#: Loads the file alone, as pytest loads a plugin, and says what came with it and how long it took.
LOAD = f"""
import json, sys, time
import pytest
from importlib.util import module_from_spec, spec_from_file_location
before = set(sys.modules)
took = []
for _ in range(5):
    start = time.perf_counter()
    spec = spec_from_file_location("the_plugin", {str(FILE)!r})
    spec.loader.exec_module(module_from_spec(spec))
    took.append(time.perf_counter() - start)
print(json.dumps([sorted(set(sys.modules) - before), min(took)]))
"""


def test_the_plugin_imports_nothing_before_it_is_used() -> None:
    """Beyond pytest, the standard library alone, in less than 5 ms."""
    done = subprocess.run([sys.executable, "-I", "-c", LOAD], capture_output=True, text=True, timeout=60, check=True)
    loaded, seconds = json.loads(done.stdout)
    assert {name.partition(".")[0] for name in loaded} <= set(sys.stdlib_module_names)
    assert seconds < 0.005


@pytest.mark.skipif(
    PLUGIN.module.startswith("tenancy."),
    reason="the entry point names a module of the package, whose import brings opentelemetry along",
)
def test_a_run_that_uses_none_of_it_loads_none_of_it(tmp_path: Path) -> None:
    """Neither this library nor OpenTelemetry is there, at the start or at the end of a run."""
    (tmp_path / "test_it.py").write_text(
        "import sys\ndef test_it():\n    assert not {'tenancy', 'opentelemetry'} & set(sys.modules), 'loaded'\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout
