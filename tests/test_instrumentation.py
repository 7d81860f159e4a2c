from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import tenancy
from tenancy import instrumentation

APP = """
import grpc, httpx, requests.adapters, starlette.applications
from concurrent.futures import ThreadPoolExecutor
import tenancy

patched = [
    requests.adapters.HTTPAdapter.send, httpx.HTTPTransport.handle_request, httpx.AsyncHTTPTransport.handle_async_request,
    starlette.applications.Starlette.__call__, grpc.insecure_channel, grpc.aio.server, ThreadPoolExecutor.submit,
]
print(sum("tenancy" in function.__code__.co_filename for function in patched), "of", len(patched))
"""


# Everything that any loaded module or class has, ours excepted: what is patched need not be listed, and cannot be forgotten.
SNAPSHOTS = """
import json, sys, types
from importlib import import_module
import tenancy
from tenancy.instrumentation import _ADAPTERS

def owners():
    for name, module in list(sys.modules.items()):
        if not isinstance(module, types.ModuleType) or name.startswith("tenancy") or module is sys.modules["__main__"]:
            continue
        yield name, module
        for thing in list(vars(module).values()):
            if issubclass(type(thing), type) and thing.__module__ == name:
                yield f"{name}:{thing.__qualname__}", thing

def snapshot():
    return {(where, name): value for where, owner in owners() for name, value in list(vars(owner).items())}

def changed():
    after = snapshot()
    other = [key for key, value in before.items() if after.get(key) is not value]
    new = [key for key in after if key not in before and ":" in key[0]]  # what a module has more may be a submodule
    return sorted(".".join(key) for key in other + new)

for module in _ADAPTERS.values():
    import_module(module)
before = snapshot()
tenancy.configure(tenancy.Settings.load({"TENANCY_ENABLED": "false"}))
off = [tenancy.instrument(), *(tenancy.instrument(library) for library in _ADAPTERS)]
report = {"off": [off, changed()]}
tenancy.configure(tenancy.Settings.load({}))
for library in [*_ADAPTERS, "everything"]:
    instrumented, patched = tenancy.instrument(*[library] if library in _ADAPTERS else []), changed()
    tenancy.uninstrument()
    report[library] = [instrumented, patched, changed()]
print(json.dumps(report))
"""


@pytest.fixture(scope="module")
def snapshots() -> dict[str, Any]:
    """What changed in all modules and classes when switched off, and for each library, and all, when instrumented and undone."""
    report: dict[str, Any] = json.loads(run(sys.executable, "-c", SNAPSHOTS).splitlines()[-1])
    return report


def run(*command: str, **variables: str) -> str:
    environment = {
        **os.environ,
        "OTEL_TRACES_EXPORTER": "none",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        **variables,
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=True)
    return done.stdout.strip() + done.stderr.strip()


def test_opentelemetry_instrument_switches_it_on(tmp_path: Path) -> None:
    """Without a line of code, also where OpenTelemetry's own instrumentations are off; and not where tenancy is switched off."""
    app = tmp_path / "app.py"
    app.write_text(APP)
    instrument = str(Path(sys.executable).with_name("opentelemetry-instrument"))
    off = {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "*"}
    assert run(instrument, sys.executable, str(app), **off) == "7 of 7"
    assert run(instrument, sys.executable, str(app), TENANCY_ENABLED="false", **off) == "0 of 7"
    assert run(sys.executable, str(app)) == "0 of 7"


def test_a_mistake_in_the_settings_does_not_stop_other_instrumentation(tmp_path: Path) -> None:
    """The hook of opentelemetry-instrument logs what is wrong, and the application goes on."""
    app = tmp_path / "app.py"
    app.write_text("print('the application runs')")
    instrument = str(Path(sys.executable).with_name("opentelemetry-instrument"))
    shown = run(instrument, sys.executable, str(app), TENANCY_ENABLED="perhaps")
    assert "the application runs" in shown
    assert "TENANCY_ENABLED is 'perhaps'" in shown


def test_all_that_is_installed_is_instrumented_once() -> None:
    """Naming nothing means everything; asking again changes nothing; undoing brings every original back."""
    import httpx
    import requests.adapters

    originals = requests.adapters.HTTPAdapter.send, httpx.HTTPTransport.handle_request
    try:
        assert set(tenancy.instrument()) == set(instrumentation._ADAPTERS)
        patched = requests.adapters.HTTPAdapter.send, httpx.HTTPTransport.handle_request
        assert tenancy.instrument("requests") == tenancy.instrument()
        assert (requests.adapters.HTTPAdapter.send, httpx.HTTPTransport.handle_request) == patched != originals
    finally:
        tenancy.uninstrument()
    assert (requests.adapters.HTTPAdapter.send, httpx.HTTPTransport.handle_request) == originals


def test_off_means_off(snapshots: dict[str, Any]) -> None:
    """Switched off, every attribute of every module and class `is` what it was, whatever is asked for."""
    asked, changed = snapshots["off"]
    assert not any(asked)
    assert len(asked) == len(instrumentation._ADAPTERS) + 1
    assert changed == []


@pytest.mark.parametrize("library", [*instrumentation._ADAPTERS, "everything"])
def test_undone_means_undone(snapshots: dict[str, Any], library: str) -> None:
    """Switched on, some attributes of this library are others; undone, each `is` the original again, and none is left behind."""
    instrumented, patched, left = snapshots[library]
    assert instrumented == ([library] if library in instrumentation._ADAPTERS else list(instrumentation._ADAPTERS))
    assert patched
    if library != "everything":
        assert all(name.startswith((library.partition(".")[0], "starlette")) for name in patched)
    assert left == []


def test_unknown_libraries_cannot_be_instrumented() -> None:
    """A misspelt name raises and lists those that exist; switched off, nothing is instrumented."""
    with pytest.raises(tenancy.ConfigurationError, match="requests"):
        tenancy.instrument("reqests")
    tenancy.configure(enabled=False)
    assert tenancy.instrument() == ()


def test_a_sandbox_cannot_be_switched_off() -> None:
    """It would act as the baseline."""
    for sandbox in ({"sandbox": "pr-42"}, {"role": "sandbox"}):
        tenancy.configure(enabled=False, **sandbox)
        with pytest.raises(tenancy.IdentityError, match="switched off"):
            tenancy.instrument()


def test_a_folder_with_the_name_of_a_library_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Generated code often lies in a folder called grpc."""
    (tmp_path / "a_library").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert find_spec("a_library") is not None
    assert not instrumentation._installed("a_library")
    assert instrumentation._installed("httpx")


def test_one_library_is_taken_out_alone() -> None:
    """What is named is undone, and the rest stays; an unknown name is an error that names the known ones."""
    original = urllib.request.AbstractHTTPHandler.do_open
    tenancy.instrument("urllib", "concurrent.futures")
    try:
        tenancy.uninstrument("urllib")
        assert urllib.request.AbstractHTTPHandler.do_open is original
        assert tenancy.instrument("concurrent.futures") == ("concurrent.futures",)
        tenancy.uninstrument("urllib")
        with pytest.raises(tenancy.ConfigurationError, match="urllib3"):
            tenancy.uninstrument("urlib")
    finally:
        tenancy.uninstrument()
