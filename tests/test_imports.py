from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import tenancy

#: adapter module -> (the package that it needs, the extra that brings it)
ADAPTERS = {
    "tenancy.http.fastapi": ("fastapi", "fastapi"),
    "tenancy.http.requests": ("requests", "requests"),
    "tenancy.http.httpx": ("httpx", "httpx"),
    "tenancy.grpc": ("grpc", "grpc"),
    "tenancy.messaging.confluent_kafka": ("confluent_kafka", "kafka"),
    "tenancy.messaging.aio_pika": ("aio_pika", "rabbitmq"),
    "tenancy.data.sqlalchemy": ("sqlalchemy", "sqlalchemy"),
}

#: Beyond the standard library: ourselves, and opentelemetry-api with what it depends on.
ALLOWED = {"tenancy", "opentelemetry", "typing_extensions", "importlib_metadata", "zipp"}


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.mark.parametrize("module", ["tenancy", "tenancy.http.asgi", "tenancy.routes", "tenancy.mesh"])
def test_the_core_loads_the_api_alone(module: str) -> None:
    """Importing the core, the ASGI middleware and the mesh loads the standard library and opentelemetry-api, nothing else."""
    before = set(json.loads(python("import sys, json; print(json.dumps(sorted(sys.modules)))")))
    after = set(json.loads(python(f"import sys, json, {module}; print(json.dumps(sorted(sys.modules)))")))
    third_party = {name.partition(".")[0] for name in after - before} - set(sys.stdlib_module_names) - ALLOWED
    assert third_party == set()
    assert not any(name.startswith("opentelemetry.sdk") for name in after)


@pytest.mark.parametrize("module", ADAPTERS)
def test_an_adapter_without_its_library_names_the_command_to_run(module: str) -> None:
    """The error is an ImportError and a TenancyError, and names the pip command."""
    package, extra = ADAPTERS[module]
    code = f"""
import sys
sys.modules[{package!r}] = None
import tenancy
try:
    import {module}
except tenancy.MissingDependencyError as error:
    print(isinstance(error, ImportError), isinstance(error, tenancy.TenancyError), error)
"""
    shown = python(code)
    assert shown.startswith("True True"), shown
    assert f"pip install 'request-tenancy[{extra}]'" in shown


def test_a_broken_library_is_not_called_missing(tmp_path: Path) -> None:
    """A library that is there but fails to import says so itself."""
    (tmp_path / "httpx.py").write_text("import a_dependency_that_is_gone\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nimport tenancy.http.httpx"
    result = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "a_dependency_that_is_gone" in result.stderr
    assert "MissingDependencyError" not in result.stderr


def test_all_is_sorted_and_true() -> None:
    """What the package exports exists."""
    assert all(hasattr(tenancy, name) for name in tenancy.__all__)
    assert len(set(tenancy.__all__)) == len(tenancy.__all__)
