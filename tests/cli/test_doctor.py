from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from tenancy.cli.doctor import doctor as command
from tests.cli.support import DOCTOR, IDENTITY, SCRIPTS, doctor, environment, routes_file, run

APP = """
import tenancy
tenancy.instrument()
import fastapi, requests
app = fastapi.FastAPI()
print("noise of the application")
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder with a FastAPI service that switches tenancy on."""
    (tmp_path / "shop.py").write_text(APP)
    return tmp_path


def test_a_service_with_all_it_needs_is_fine(shop: Path) -> None:
    """Status 0, no finding; who it is, where its routes are, and what is patched are told."""
    ran = doctor("--app", "shop:app", cwd=shop, TENANCY_ROUTES=routes_file(shop), **IDENTITY)
    assert (ran.status, ran.report["ok"], ran.report["findings"]) == (0, True, [])
    assert ran.report["schema"] == 1
    assert ran.report["process"]["mode"] == "application"
    assert ran.report["identity"] == {"workload": "shop/orders", "role": "baseline", "sandbox": None}
    routes = ran.report["routes"]
    assert (routes["version"], routes["routes"], routes["keys"], routes["workloads"]) == (3, 1, 1, 2)
    assert routes["knows_workload"] is True
    requests = ran.library("requests")
    assert requests["covered_by"] == ["tenancy"]
    assert requests["tenancy"]["patched"] == ["requests.adapters.HTTPAdapter.send"]
    assert requests["tenancy"]["requires"].startswith(">=2.31")
    assert requests["lost"] is None
    assert ran.library("fastapi")["covered_by"] == ["tenancy"]
    assert ran.err == "noise of the application\n"


def test_a_fresh_process_says_that_it_sees_nothing(tmp_path: Path) -> None:
    """Nothing is patched before the service has switched it on, which is no fault of the service."""
    ran = doctor(cwd=tmp_path, TENANCY_ROUTES=routes_file(tmp_path), **IDENTITY)
    assert (ran.status, ran.report["process"]["mode"]) == (0, "fresh")
    assert "--app" in ran.finding("nothing-imported")["do"]
    assert all(library["covered_by"] == [] and not library["tenancy"]["patched"] for library in ran.report["libraries"])


def test_no_client_library_is_imported_for_it(tmp_path: Path) -> None:
    """Versions come from metadata; a library that breaks when it is imported breaks nothing here."""
    (tmp_path / "httpx.py").write_text("raise RuntimeError('imported')")
    ran = doctor(cwd=tmp_path)
    assert "inspection-failed" not in ran.codes
    code = (
        "import sys; from tenancy.cli.inspection import inspect; inspect(); "
        "print(sorted({'click', 'rich', 'requests', 'httpx', 'fastapi', 'grpc', 'confluent_kafka'} & set(sys.modules)))"
    )
    assert run(sys.executable, "-c", code, cwd=tmp_path).out == "[]\n"


def test_started_by_opentelemetry_instrument(tmp_path: Path) -> None:
    """What the service would have switched on is on, by both; OpenTelemetry's patches are recognised beneath and beside ours."""
    ran = run(
        str(SCRIPTS / "opentelemetry-instrument"),
        str(SCRIPTS / "tenancy"),
        "doctor",
        "--json",
        cwd=tmp_path,
        variables={**IDENTITY, "TENANCY_ROUTES": routes_file(tmp_path)},
    )
    assert (ran.status, ran.report["process"]["mode"], ran.codes) == (0, "opentelemetry-instrument", [])
    for name in ("fastapi", "requests", "httpx", "grpc"):
        assert ran.library(name)["covered_by"] == ["tenancy", "opentelemetry"], name
        assert ran.library(name)["opentelemetry"]["state"] == "on"
    kafka = ran.library("confluent_kafka")
    assert kafka["covered_by"] == ["opentelemetry"]
    assert "poll()" in kafka["lost"]
    assert "@consumer()" in kafka["do"]


def test_opentelemetry_instrument_that_could_not_switch_it_on(tmp_path: Path) -> None:
    """A mistake in the settings stops our hook and nothing else; the report says so, and names the mistake."""
    ran = run(
        str(SCRIPTS / "opentelemetry-instrument"),
        str(SCRIPTS / "tenancy"),
        "doctor",
        "--json",
        cwd=tmp_path,
        variables={"TENANCY_READ": "nonsense"},
    )
    assert ran.status == 1
    assert {"not-switched-on", "setting-invalid", "library-not-switched-on"} <= set(ran.codes)


def test_an_application_that_switches_nothing_on(tmp_path: Path) -> None:
    """It was imported, so that nothing is on is no longer for lack of looking."""
    (tmp_path / "shop.py").write_text("import fastapi\napp = fastapi.FastAPI()\n")
    ran = doctor("--app", "shop:app", cwd=tmp_path, TENANCY_ROUTES=routes_file(tmp_path), **IDENTITY)
    assert (ran.status, ran.codes) == (1, ["not-switched-on"])
    assert "tenancy.instrument()" in ran.finding("not-switched-on")["do"]


def test_libraries_that_were_left_out(tmp_path: Path) -> None:
    """What the application imports and nobody covers is a warning with the line to write; what it does not import is none."""
    (tmp_path / "shop.py").write_text("import tenancy, requests, confluent_kafka\ntenancy.instrument('grpc')\n")
    ran = doctor("--import", "shop", cwd=tmp_path, TENANCY_ROUTES=routes_file(tmp_path), **IDENTITY)
    assert ran.status == 1
    assert 'tenancy.instrument("requests")' in ran.finding("library-uncovered", "requests")["do"]
    assert "tenancy.messaging.confluent_kafka" in ran.finding("library-uncovered", "confluent_kafka")["do"]
    assert not any("httpx" in finding["about"] for finding in ran.report["findings"])


def test_opentelemetry_alone(tmp_path: Path) -> None:
    """Its instrumentations carry the key further than they should, and Kafka's not as far; both are told."""
    (tmp_path / "shop.py").write_text(
        """
import tenancy, requests, confluent_kafka
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.instrumentation.confluent_kafka import ConfluentKafkaInstrumentor
RequestsInstrumentor().instrument()
ConfluentKafkaInstrumentor().instrument()
tenancy.instrument("grpc")
"""
    )
    ran = doctor("--import", "shop", cwd=tmp_path)
    assert "TENANCY_TRUSTED_HOSTS" in ran.finding("library-opentelemetry-only", "requests")["says"]
    assert "poll()" in ran.finding("library-opentelemetry-only", "confluent_kafka")["says"]


def test_names_that_were_taken_before(tmp_path: Path) -> None:
    """``from grpc import insecure_channel`` before ``tenancy.instrument()`` keeps the plain one; so does FastAPI before OpenTelemetry."""
    (tmp_path / "shop.py").write_text(
        """
from grpc import insecure_channel
from fastapi import FastAPI
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
import tenancy
FastAPIInstrumentor().instrument()
tenancy.instrument("grpc")
app = FastAPI()
"""
    )
    ran = doctor("--app", "shop:app", cwd=tmp_path)
    assert "shop.insecure_channel" in ran.finding("imported-early", "grpc")["says"]
    assert "shop.FastAPI" in ran.finding("imported-early", "fastapi")["says"]
    assert ran.library("fastapi")["covered_by"] == []


def test_patches_that_somebody_else_has_replaced(tmp_path: Path) -> None:
    """Being switched on is not believed: the attribute itself is looked at."""
    (tmp_path / "shop.py").write_text(
        """
import tenancy, requests.adapters
tenancy.instrument()
requests.adapters.HTTPAdapter.send = lambda self, request, **options: None
"""
    )
    ran = doctor("--import", "shop", cwd=tmp_path)
    assert "requests.adapters.HTTPAdapter.send (now of shop)" in ran.finding("patch-replaced", "requests")["says"]
    assert (ran.status, ran.library("requests")["covered_by"], ran.library("requests")["tenancy"]["state"]) == (1, [], "broken")


def test_patches_that_somebody_else_has_wrapped(tmp_path: Path) -> None:
    """A wrapper around ours leaves it in place."""
    (tmp_path / "shop.py").write_text(
        """
import functools, tenancy, requests.adapters
tenancy.instrument()
inner = requests.adapters.HTTPAdapter.send
@functools.wraps(inner)
def send(*args, **options):
    return inner(*args, **options)
requests.adapters.HTTPAdapter.send = send
"""
    )
    ran = doctor("--import", "shop", cwd=tmp_path)
    assert "patch-replaced" not in ran.codes
    assert ran.library("requests")["covered_by"] == ["tenancy"]


@pytest.mark.parametrize(
    ("source", "tenancy_", "opentelemetry"),
    [
        ("app = fastapi.FastAPI(); app.add_middleware(TenancyMiddleware)", True, False),
        ("app = TenancyMiddleware(fastapi.FastAPI())", True, False),
        ("app = fastapi.FastAPI(); FastAPIInstrumentor.instrument_app(app)", False, True),
        ("def create(): return TenancyMiddleware(fastapi.FastAPI())", True, False),
        ("class Shop(fastapi.FastAPI): pass\napp = Shop()", False, False),
    ],
)
def test_what_stands_around_the_application(tmp_path: Path, source: str, tenancy_: bool, opentelemetry: bool) -> None:
    """Middleware is found where it was added, wrapped around, or left out; the framework is known beneath it."""
    (tmp_path / "shop.py").write_text(
        f"""
import fastapi
from tenancy.http.fastapi import TenancyMiddleware
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
{source}
"""
    )
    ran = doctor("--app", "shop:create()" if "create" in source else "shop:app", cwd=tmp_path)
    application = ran.report["application"]
    assert (bool(application["tenancy"]), application["opentelemetry"]) == (tenancy_, opentelemetry)
    assert "fastapi" in application["frameworks"]
    covered = [name for name, covers in (("tenancy", tenancy_), ("opentelemetry", opentelemetry)) if covers]
    assert ran.library("fastapi")["covered_by"] == covered


@pytest.mark.parametrize(
    ("framework", "source"),
    [
        ("flask", "app = flask.Flask('x'); app.wsgi_app = TenancyMiddleware(app.wsgi_app)"),
        ("flask", "app = flask.Flask('x'); app.wsgi_app = logged(ProxyFix(TenancyMiddleware(app.wsgi_app)))"),
        ("django", "app = get_wsgi_application()"),
        ("aiohttp server", "app = web.Application(); setup(app)"),
    ],
)
def test_other_frameworks(tmp_path: Path, framework: str, source: str) -> None:
    """Flask's wrapped `wsgi_app`, the names in Django's settings, and aiohttp's list of middleware are looked at, too."""
    (tmp_path / "shop.py").write_text(
        f"""
import django.conf, flask
from aiohttp import web
from tenancy.http.aiohttp_server import setup
from tenancy.http.wsgi import TenancyMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix
def logged(inner):
    return lambda environ, start_response: inner(environ, start_response)
django.conf.settings.configure(MIDDLEWARE=["tenancy.http.django.TenancyMiddleware"], ROOT_URLCONF=__name__, SECRET_KEY="x")
from django.core.wsgi import get_wsgi_application
urlpatterns = []
{source}
"""
    )
    ran = doctor("--app", "shop:app", cwd=tmp_path)
    assert ran.library(framework)["covered_by"] == ["tenancy"]
    assert ran.report["application"]["tenancy"]
    assert not any("aiohttp client" in finding["about"] for finding in ran.report["findings"])


@pytest.mark.parametrize(
    ("library", "source", "module"),
    [
        ("flask", "app = flask.Flask('x')", "flask"),
        ("flask", "app = flask.Flask('x'); app.wsgi_app = ProxyFix(app.wsgi_app)", "flask"),
        ("flask", "app = flask.Flask('x'); app.wsgi_app = logged(app.wsgi_app)", "flask"),
        ("flask", "FlaskInstrumentor().instrument(); app = flask.Flask('x'); app.wsgi_app = ProxyFix(app.wsgi_app)", "flask"),
        ("django", "app = get_wsgi_application()", "django"),
        ("aiohttp.web", "app = web.Application()", "aiohttp_server"),
        ("fastapi", "app = fastapi.FastAPI()", "fastapi"),
        ("fastapi", "app = logged(fastapi.FastAPI())", "fastapi"),
    ],
)
def test_frameworks_that_are_switched_on(tmp_path: Path, library: str, source: str, module: str) -> None:
    """An application that gets ours at its first request names who has seen to that, in JSON as in words, whatever stands around it."""
    (tmp_path / "shop.py").write_text(
        f"""
import django.conf, fastapi, flask, tenancy
from aiohttp import web
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from werkzeug.middleware.proxy_fix import ProxyFix
def logged(inner):
    def call(*args):
        return inner(*args)
    return call
django.conf.settings.configure(MIDDLEWARE=[], ROOT_URLCONF=__name__, SECRET_KEY="x")
from django.core.wsgi import get_wsgi_application
urlpatterns = []
tenancy.instrument({library!r})
{source}
"""
    )
    ran = doctor("--app", "shop:app", cwd=tmp_path)
    assert ran.report["application"]["tenancy"] == [f"tenancy.http.{module}.instrument"]
    shown = run(*DOCTOR, "--app", "shop:app", cwd=tmp_path).out
    assert "ours comes with the first request, by tenancy.instrument()" in " ".join(shown.split())


@pytest.mark.parametrize("middleware", ["", "app = TenancyMiddleware(app)"])
def test_an_application_of_no_known_framework(tmp_path: Path, middleware: str) -> None:
    """Middleware of ours has to stand around it, since nothing else can know it."""
    (tmp_path / "shop.py").write_text(
        f"""
import tenancy
from tenancy.http.asgi import TenancyMiddleware
tenancy.instrument()
async def app(scope, receive, send): ...
{middleware}
"""
    )
    ran = doctor("--app", "shop:app", cwd=tmp_path)
    assert ran.codes == ([] if middleware else ["application-uncovered"])


def test_without_packaging(tmp_path: Path) -> None:
    """Versions are then not compared, which is said."""
    code = "from tenancy.cli.inspection import inspect; print([finding.code for finding in inspect().findings])"
    without = f"import sys; sys.modules['packaging'] = None; {code}"
    assert "versions-not-compared" in run(sys.executable, "-c", without, cwd=tmp_path).out
    assert "versions-not-compared" not in run(sys.executable, "-c", code, cwd=tmp_path).out


def test_an_application_that_cannot_be_imported(tmp_path: Path) -> None:
    """What it raised and where is a finding, without its secrets; that nothing is switched on is then not its fault."""
    (tmp_path / "shop.py").write_text("import sys\n\nsys.exit('no database at postgresql://ann:hunter2@db/shop')\n")
    ran = doctor("--app", "shop:app", cwd=tmp_path)
    says = ran.finding("application-failed")["says"]
    assert "SystemExit: no database at postgresql://***@db/shop" in says
    assert "shop.py:3" in says
    assert "hunter2" not in ran.out + ran.err
    assert (ran.status, "not-switched-on" in ran.codes) == (1, False)
    missing = doctor("--import", "no.such.module", cwd=tmp_path)
    assert "PYTHONPATH" in missing.finding("application-failed")["do"]


def test_an_attribute_that_is_not_there(tmp_path: Path) -> None:
    """What in the module looks like an application, or makes one, is named in its place; where nothing does, what to write."""
    (tmp_path / "shop.py").write_text(
        """
import fastapi, flask
from fastapi import APIRouter, Depends, FastAPI
from fastapi.security import OAuth2PasswordBearer
from flask import request
from unittest.mock import MagicMock
router, scheme, mock, _private = APIRouter(), OAuth2PasswordBearer("x"), MagicMock(), FastAPI()
service = FastAPI()
legacy = flask.Flask("x")
def create_app(): ...
def create_apple(): ...
"""
    )
    for attribute in ("app", "service.inner", "create_it()"):
        finding = doctor("--app", f"shop:{attribute}", cwd=tmp_path).finding("application-failed")
        assert f"has no '{attribute.removesuffix('()')}'" in finding["says"]
        assert finding["do"] == "--app shop:service or --app shop:legacy or --app 'shop:create_app()'"
    (tmp_path / "empty.py").write_text("async def application(scope, receive, send): ...")
    assert doctor("--app", "empty:app", cwd=tmp_path).finding("application-failed")["do"] == "--app empty:application"
    (tmp_path / "empty.py").write_text(
        """
async def serve(scope, receive, send): ...
def old(environ, start_response): ...
def other(scope, send): ...
"""
    )
    assert doctor("--app", "empty:app", cwd=tmp_path).finding("application-failed")["do"] == "--app empty:serve or --app empty:old"
    (tmp_path / "empty.py").write_text("")
    ran = doctor("--app", "empty:app", cwd=tmp_path)
    assert "empty:create_app()" in ran.finding("application-failed")["do"]
    assert "--import empty" in ran.finding("application-failed")["do"]
    (tmp_path / "empty.py").write_text("import os\nos.nothing\n")
    assert "AttributeError" in doctor("--app", "empty:app", cwd=tmp_path).finding("application-failed")["says"]


@pytest.mark.parametrize("edge", ["host:preview.example.com", "cookie", "header:host"])
def test_an_edge_that_looks_nowhere(shop: Path, edge: str) -> None:
    """The setting has a finding with what to write, and the application that fails by it sends its reader there, naming its own line."""
    ran = doctor("--app", "shop:app", cwd=shop, TENANCY_EDGE=edge)
    setting, application = ran.finding("setting-invalid"), ran.finding("application-failed")
    assert (setting["about"], setting["level"]) == ("TENANCY_EDGE", "error")
    assert repr(edge) in setting["says"]
    assert "export TENANCY_EDGE='host:{key}.preview.example.com'" in setting["do"]
    assert application["do"] == "correct TENANCY_EDGE, or remove it, and run this again"
    assert "shop.py:3)" in application["says"]
    assert ran.report["summary"].endswith(application["do"])


@pytest.mark.parametrize(
    "arguments", [("--app", "shop"), ("--app", "shop:"), ("--app", "shop:a b"), ("--import", "1x"), ("--nothing",)]
)
def test_what_cannot_be_run_as_given(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """Status 2 and one line that says what to write, no traceback."""
    ran = run(*DOCTOR, *arguments, cwd=tmp_path)
    assert (ran.status, ran.out) == (2, "")
    assert "Traceback" not in ran.err


def test_threads_of_the_application_are_not_waited_for(tmp_path: Path) -> None:
    """A consumer thread that runs for ever, and what is printed at exit, neither hold the report up nor get into it."""
    (tmp_path / "shop.py").write_text(
        "import atexit, threading, time\nthreading.Thread(target=time.sleep, args=(90,)).start()\natexit.register(print, 'late')\n"
    )
    started = time.monotonic()
    ran = doctor("--import", "shop", cwd=tmp_path)
    assert ran.report["schema"] == 1
    assert time.monotonic() - started < 60


def test_an_import_that_hangs_can_be_interrupted(tmp_path: Path) -> None:
    """Control-C ends it with status 130 and the line that it hung at, without a traceback."""
    (tmp_path / "shop.py").write_text("import sys, time\nprint('here', file=sys.stderr, flush=True)\ntime.sleep(90)\n")
    process = subprocess.Popen(
        [*DOCTOR, "--import", "shop"],
        cwd=tmp_path,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # jobs in the background inherit that it is ignored
    )
    try:
        assert process.stderr is not None
        assert process.stderr.readline() == "here\n"
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "interrupted" in rest
    assert "shop.py:" in rest
    assert "Traceback" not in rest


@pytest.mark.skipif(os.name != "posix", reason="shells differ")
@pytest.mark.parametrize("arguments", ["", "--json"])
@pytest.mark.parametrize(("reader", "lines"), [("head -1", 1), ("true", 0)])
def test_a_reader_that_leaves(tmp_path: Path, arguments: str, reader: str, lines: int) -> None:
    """``tenancy doctor | head -1`` prints one line and no error, and keeps its own status; so where nobody reads at all."""
    command = f"'{sys.executable}' -m tenancy.cli doctor {arguments} | {reader}; echo ${{PIPESTATUS[0]}}"
    ran = run("bash", "-c", command, cwd=tmp_path, variables=dict(IDENTITY, TENANCY_ROUTES=routes_file(tmp_path)))
    assert (ran.out.splitlines()[lines:], ran.err) == (["0"], "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_written(tmp_path: Path) -> None:
    """A full disk is one line and status 2; a closed standard output is no error at all."""
    full = run("sh", "-c", f"'{sys.executable}' -m tenancy.cli doctor > /dev/full", cwd=tmp_path)
    assert (full.status, full.err.count("\n")) == (2, 1)
    assert "cannot be written" in full.err
    closed = run("sh", "-c", f"'{sys.executable}' -m tenancy.cli doctor >&- 2>&-", cwd=tmp_path, variables={"TENANCY_READ": "x"})
    assert closed.status == 1


@pytest.mark.parametrize("columns", ["80", "20", "200", "many"])
def test_text_is_plain_where_it_is_piped(tmp_path: Path, columns: str) -> None:
    """No colour, no line over 80 columns unless there is room, the outcome in the last lines; the same findings as in JSON."""
    variables = {"COLUMNS": columns, "TENANCY_SANDBOX": "PR_42", "TENANCY_TRUSTED_HOSTS": "\x1b[31m[bold]:smile:"}
    ran = run(*DOCTOR, cwd=tmp_path, variables=variables)
    told = doctor(cwd=tmp_path, **variables)
    assert "\x1b" not in ran.out
    assert "\\x1b[31m[bold]:smile:" in ran.out
    assert max(map(len, ran.out.splitlines())) <= {"200": 120}.get(columns, 80)
    assert not any(line != line.rstrip() for line in ran.out.splitlines())
    one_line = " ".join(ran.out.split())
    assert f"tenancy doctor: {' '.join(told.report['summary'].split())}" in one_line.replace("\\x1b", "\x1b")
    assert one_line.endswith(told.report["summary"].split()[-1])
    for finding in told.report["findings"]:
        assert f"-> {' '.join(finding['do'].split())}" in one_line


def test_a_terminal_without_utf_8(tmp_path: Path) -> None:
    """Names that its encoding does not have are escaped."""
    folder = tmp_path / "br\u00fccke"
    folder.mkdir()
    variables = {"PYTHONIOENCODING": "ascii", "TENANCY_ROUTES": (folder / "\u2713.json").as_uri(), "LC_ALL": "C"}
    ran = run(*DOCTOR, cwd=tmp_path, variables=variables)
    assert ran.out.isascii()
    assert "tenancy doctor: " in ran.out
    assert ran.err == ""


def test_a_working_folder_that_is_gone(tmp_path: Path) -> None:
    """It does without."""
    script = f"mkdir gone && cd gone && rmdir ../gone && exec '{SCRIPTS / 'tenancy'}' doctor --json"
    ran = run("sh", "-c", script, cwd=tmp_path)
    assert "inspection-failed" not in ran.codes


@pytest.mark.parametrize("name", ["click", "rich"])
def test_without_the_extra(tmp_path: Path, name: str) -> None:
    """The command prints one line with the pip command, no traceback."""
    code = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {name!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name={name!r})
sys.meta_path.insert(0, Missing())
from tenancy.cli import main
sys.exit(main())
"""
    ran = run(sys.executable, "-c", code, cwd=tmp_path)
    assert (ran.status, ran.out) == (2, "")
    assert ran.err == f"tenancy: {name} is not installed; run: pip install 'request-tenancy[cli]'\n"


def test_the_library_does_not_load_the_command_line(tmp_path: Path) -> None:
    """``import tenancy`` loads neither it nor what it needs."""
    code = "import sys, tenancy; print({'tenancy.cli', 'click', 'rich'} & set(sys.modules))"
    assert run(sys.executable, "-c", code, cwd=tmp_path).out == "set()\n"


def test_help() -> None:
    """The help tells of the exit status; the script has a version."""
    shown = CliRunner().invoke(command, ["--help"])
    assert shown.exit_code == 0
    assert "Exit status: 0 nothing is wrong" in shown.output
    version = run(str(SCRIPTS / "tenancy"), "--version", cwd=Path.cwd())
    assert (version.status, version.out.startswith("request-tenancy, version ")) == (0, True)


def test_json_is_the_same_in_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command can be called in a process that goes on."""
    monkeypatch.chdir(tmp_path)
    shown = CliRunner().invoke(command, ["--json"])
    assert shown.exit_code in (0, 1)
    assert json.loads(shown.output)["schema"] == 1
