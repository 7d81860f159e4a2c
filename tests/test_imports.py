from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import pytest

import tenancy
from tenancy import instrumentation

#: adapter module -> (the package that it needs, the extra that brings it)
ADAPTERS = {
    "tenancy.http.fastapi": ("fastapi", "fastapi"),
    "tenancy.http.flask": ("flask", "flask"),
    "tenancy.http.django": ("django", "django"),
    "tenancy.http.aiohttp_client": ("aiohttp", "aiohttp"),
    "tenancy.http.aiohttp_server": ("aiohttp", "aiohttp"),
    "tenancy.http.requests": ("requests", "requests"),
    "tenancy.http.httpx": ("httpx", "httpx"),
    "tenancy.http.urllib3": ("urllib3", "urllib3"),
    "tenancy.grpc": ("grpc", "grpc"),
    "tenancy.messaging.confluent_kafka": ("confluent_kafka", "kafka"),
    "tenancy.messaging.aiokafka": ("aiokafka", "aiokafka"),
    "tenancy.messaging.faststream": ("faststream", "faststream"),
    "tenancy.messaging.aio_pika": ("aio_pika", "rabbitmq"),
    "tenancy.messaging.celery": ("celery", "celery"),
    "tenancy.messaging.pika": ("pika", "pika"),
    "tenancy.data.sqlalchemy": ("sqlalchemy", "sqlalchemy"),
    "tenancy.data.redis": ("redis", "redis"),
    "tenancy.data.databases": ("sqlalchemy", "sqlalchemy"),
    "tenancy.data.databases.postgresql": ("psycopg", "postgresql"),
    "tenancy.data.databases.mysql": ("pymysql", "mysql"),
    "tenancy.data.postgresql.engine": ("sqlalchemy", "postgresql"),
    "tenancy.data.postgresql.isolation": ("sqlalchemy", "postgresql"),
    "tenancy.data.postgresql.django": ("django", "django"),
    "tenancy.routes.stores.sql": ("sqlalchemy", "sqlalchemy"),
    "tenancy.routes.stores._postgresql": ("psycopg", "postgresql"),
    "tenancy.routes.stores.redis": ("redis", "redis"),
    "tenancy.messaging.deduplication.sql": ("sqlalchemy", "sqlalchemy"),
    "tenancy.messaging.deduplication.redis": ("redis", "redis"),
}

#: Extras without a module of their own that needs them to be imported.
OTHER_EXTRAS = {"all", "cli", "opentelemetry", "testing", "yaml"}

#: Libraries that an adapter or the command line uses, and some that theirs use.
LIBRARIES = sorted(
    {package for package, _ in ADAPTERS.values()} | {"starlette", "werkzeug", "multidict", "yaml", "click", "rich", "pytest"}
)

#: Beyond the standard library: ourselves, and opentelemetry-api with what it depends on.
ALLOWED = {"tenancy", "opentelemetry", "typing_extensions", "importlib_metadata", "zipp"}


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout


CORE = (
    "tenancy tenancy.http.asgi tenancy.http.wsgi tenancy.http.urllib tenancy.executors tenancy.messaging.deduplication tenancy.routes "
    "tenancy.mesh tenancy.testing tenancy.data.postgresql"
)


@pytest.mark.parametrize("module", CORE.split())
def test_the_core_loads_the_api_alone(module: str) -> None:
    """Importing the core, what needs no client library, and the mesh loads the standard library and opentelemetry-api, nothing else."""
    before = set(json.loads(python("import sys, json; print(json.dumps(sorted(sys.modules)))")))
    after = set(json.loads(python(f"import sys, json, {module}; print(json.dumps(sorted(sys.modules)))")))
    packages = {name.partition(".")[0] for name in after - before if not name.startswith(("__mp_main__", "_sysconfigdata_"))}
    assert packages - set(sys.stdlib_module_names) - ALLOWED == set()
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


def test_every_extra_is_covered() -> None:
    """An extra of the distribution has its modules above, or is known to have none."""
    extras = set(metadata.metadata("request-tenancy").get_all("Provides-Extra") or ())
    assert extras == {extra for _, extra in ADAPTERS.values()} | OTHER_EXTRAS
    assert set(instrumentation._ADAPTERS.values()) <= {*ADAPTERS, "tenancy.executors", "tenancy.http.urllib"}


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


PROGRAM = """
import json, logging
logging.basicConfig(format="%(levelname)s %(message)s")
import tenancy

instrumented = tenancy.instrument()
assert tenancy.instrument() == instrumented
with tenancy.scope("pr-42"):
    headers = tenancy.inject({})
tenancy.uninstrument()
print(json.dumps([instrumented, headers]))
"""


class Ran(NamedTuple):
    """What a program printed, and where it says that it goes wrong."""

    instrumented: set[str]
    warnings: list[str]


@pytest.fixture
def program(tmp_path: Path) -> Callable[[], Ran]:
    """Runs a program that was written without a thought of the files around it."""

    def run(code: str = PROGRAM) -> Ran:
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, done.stderr
        instrumented, headers = json.loads(done.stdout)
        assert headers == {"baggage": "sd-routing-key=pr-42"}
        assert "Traceback" not in done.stderr
        return Ran(set(instrumented), [line for line in done.stderr.splitlines() if line.startswith("WARNING ")])

    return run


@pytest.mark.parametrize("library", LIBRARIES)
def test_an_empty_file_named_like_a_library(library: str, tmp_path: Path, program: Callable[[], Ran]) -> None:
    """The program runs and carries its key; the library is not patched, which is told once; what has nothing to do with it is patched."""
    file = tmp_path / f"{library}.py"
    file.write_text("")
    instrumented, warnings = program()
    ours = {name for name in instrumentation._ADAPTERS if name.partition(".")[0] == library}
    assert instrumented.isdisjoint(ours)
    assert instrumented >= {"urllib", "concurrent.futures"}
    assert len(instrumentation._ADAPTERS) - len(instrumented) <= 3
    assert len(warnings) == len(set(warnings)) == len(instrumentation._ADAPTERS) - len(instrumented)
    for name in ours:
        assert f"WARNING {name} is not instrumented: {file} stands in its place; give that file another name" in warnings


def test_empty_files_named_like_all_libraries(tmp_path: Path, program: Callable[[], Ran]) -> None:
    """What needs none of them is patched."""
    for library in LIBRARIES:
        (tmp_path / f"{library}.py").write_text("")
    assert program().instrumented == {"urllib", "concurrent.futures"}


def test_empty_folders_named_like_all_libraries(tmp_path: Path, program: Callable[[], Ran]) -> None:
    """A folder without an ``__init__.py`` hides nothing: all libraries are patched."""
    for library in LIBRARIES:
        (tmp_path / library).mkdir()
    assert program() == Ran(set(instrumentation._ADAPTERS), [])


def test_empty_packages_named_like_all_libraries(tmp_path: Path, program: Callable[[], Ran]) -> None:
    """A local package of the name is not taken for the library either."""
    for library in LIBRARIES:
        (tmp_path / library).mkdir()
        (tmp_path / library / "__init__.py").write_text("")
    instrumented, warnings = program()
    assert instrumented == {"urllib", "concurrent.futures"}
    assert len(warnings) == len(instrumentation._ADAPTERS) - 2
    assert all("is not instrumented, because it cannot be imported: " in warning for warning in warnings)


def test_a_named_library_that_is_a_file(tmp_path: Path) -> None:
    """Whoever names a library is told that it is not the library, and which file to rename; the file is not run."""
    (tmp_path / "requests.py").write_text("print('the file ran')")
    code = "import tenancy\ntry: tenancy.instrument('requests')\nexcept tenancy.ConfigurationError as error: print(error)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=100, check=True)
    file = tmp_path / "requests.py"
    assert done.stdout == f"'requests' cannot be instrumented: {file} stands in its place; give that file another name\n"


def test_a_program_that_is_named_like_a_library(tmp_path: Path) -> None:
    """A script called grpc.py is run once, not a second time as the library."""
    script = tmp_path / "grpc.py"
    script.write_text("import tenancy\nprint('started')\nprint('grpc' in tenancy.instrument())")
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout == "started\nFalse\n"


@pytest.mark.parametrize("others", ["*", ""], ids=["ours alone", "beside OpenTelemetry's own"])
def test_empty_files_under_opentelemetry_instrument(tmp_path: Path, others: str) -> None:
    """The program runs; where the instrumentations of OpenTelemetry do not break first, all that can be patched is."""
    for library in LIBRARIES:
        (tmp_path / f"{library}.py").write_text("")
    (tmp_path / "app.py").write_text("import tenancy.instrumentation as own\nprint('runs', *sorted(own._active))")
    command = [str(Path(sys.executable).with_name("opentelemetry-instrument")), sys.executable, "app.py"]
    exporters = {f"OTEL_{signal}_EXPORTER": "none" for signal in ("TRACES", "METRICS", "LOGS")}
    variables = {**os.environ, **exporters, "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": others}
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("runs")
    assert "request-tenancy could not be switched on" not in done.stderr
    if others == "*":
        assert done.stdout == "runs concurrent.futures urllib\n"


@pytest.mark.parametrize("hook", ["auto_instrument", "instrument"])
def test_a_foreign_package_of_the_name_is_told(tmp_path: Path, hook: str) -> None:
    """Where another distribution has written over ``tenancy/__init__.py``, whatever of ours still runs says so, and how to mend it."""
    package = tmp_path / "tenancy"
    shutil.copytree(Path(tenancy.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "__init__.py").write_text("from .lease import rent\n")
    (package / "lease.py").write_text("def rent(): return 1\n")
    code = f"from tenancy import instrumentation\ninstrumentation.{hook}()\nprint(len(instrumentation._active))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=100, check=True)
    assert "pip uninstall tenancy && pip install --force-reinstall --no-deps request-tenancy" in done.stderr
    assert done.stderr.count("another distribution") == 1
    assert int(done.stdout) > 2
