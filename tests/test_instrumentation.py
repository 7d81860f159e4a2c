from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

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
        assert set(tenancy.instrument()) == {"fastapi", "requests", "httpx", "grpc", "concurrent.futures"}
        patched = requests.adapters.HTTPAdapter.send, httpx.HTTPTransport.handle_request
        assert tenancy.instrument("requests") == tenancy.instrument()
        assert (requests.adapters.HTTPAdapter.send, httpx.HTTPTransport.handle_request) == patched != originals
    finally:
        tenancy.uninstrument()
    assert (requests.adapters.HTTPAdapter.send, httpx.HTTPTransport.handle_request) == originals


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
