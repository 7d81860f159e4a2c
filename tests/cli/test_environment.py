from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from tenancy.cli.inspection.configuration import Configuration, inspect_configuration
from tenancy.cli.inspection.report import Finding, Identity, Routes
from tests.cli.support import DOCTOR, IDENTITY, doctor, routes_file, run


@pytest.mark.parametrize(
    ("value", "active", "code", "level", "do"),
    [
        ("none", [], "propagators-without-baggage", "warning", "tracecontext,baggage"),
        ("tracecontext", ["tracecontext"], "propagators-without-baggage", "warning", "tracecontext,baggage"),
        ("baggage,tracecontext", ["baggage", "tracecontext"], "propagators-order", "warning", "tracecontext,baggage"),
        ("baggage", ["baggage"], "propagators-order", "warning", "tracecontext,baggage"),
        ("tenancy,baggage", ["tenancy", "baggage"], "propagators-order", "warning", "tracecontext,baggage,tenancy"),
        ("tracecontext,bagage", None, "propagator-unknown", "error", "'baggage'"),
        ("nonsense", None, "propagator-unknown", "error", "remove it"),
    ],
)
def test_propagators_that_lose_the_key(
    tmp_path: Path, value: str, active: list[str] | None, code: str, level: str, do: str
) -> None:
    """Each is told with what to write, also where ``import opentelemetry.propagate`` itself would fail."""
    ran = doctor(cwd=tmp_path, OTEL_PROPAGATORS=value)
    propagators = ran.report["propagators"]
    assert (propagators["configured"], propagators["active"]) == (value.split(","), active)
    finding = ran.finding(code)
    assert (finding["level"], ran.status) == (level, 1)
    assert do in finding["do"]
    assert [name for name in ran.codes if name.startswith("propagator")] == [code]


@pytest.mark.parametrize(
    "value", [None, "", "tracecontext,baggage", "tracecontext, baggage ,tenancy", "tracecontext,tenancy", "baggage,tenancy"]
)
def test_propagators_that_carry_it(tmp_path: Path, value: str | None) -> None:
    """The default order, with ours behind it, or ours in place of the standard one."""
    ran = doctor(cwd=tmp_path, **({} if value is None else {"OTEL_PROPAGATORS": value}))
    assert not [name for name in ran.codes if name.startswith("propagator")]
    assert ran.report["propagators"]["active"] == [name.strip() for name in (value or "tracecontext,baggage").split(",")]


def test_propagators_that_were_set_in_code(tmp_path: Path) -> None:
    """What is really set counts, not the variable."""
    (tmp_path / "shop.py").write_text(
        "from opentelemetry import propagate\n"
        "from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator as Only\n"
        "propagate.set_global_textmap(Only())\n"
    )
    ran = doctor("--import", "shop", cwd=tmp_path)
    assert ran.report["propagators"]["active"] == ["tracecontext"]
    assert "set in code" in ran.finding("propagators-without-baggage")["about"]


def configured(consumers: bool = True, **environ: str) -> tuple[Configuration, dict[str, Finding]]:
    """What these variables alone come to, and its findings by code and by what they are about."""
    found, findings = inspect_configuration(environ, consumers=consumers)
    return found, {name: finding for finding in findings for name in (finding.code, finding.about)}


def test_an_identity_that_is_missing(tmp_path: Path) -> None:
    """Where there may be consumers it is a warning that names the variables; a service without any, and without routes, needs none."""
    ran = doctor(cwd=tmp_path, TENANCY_ROUTES=routes_file(tmp_path))
    assert (ran.status, ran.codes) == (1, ["identity-missing"])
    assert "TENANCY_WORKLOAD" in ran.finding("identity-missing")["do"]
    assert ran.report["identity"] == {"workload": None, "role": None, "sandbox": None}
    assert {finding.level for finding in configured(consumers=False)[1].values()} == {"note"}


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"TENANCY_ENABLED": "false", "TENANCY_SANDBOX": "pr-42"}, "switched off"),
        ({"TENANCY_ENABLED": "false", "TENANCY_ROLE": "sandbox"}, "switched off"),
        ({"TENANCY_SANDBOX": "pr-42", "TENANCY_ROLE": "baseline"}, "one or the other"),
        ({"TENANCY_ROLE": "sandbox"}, "no name"),
        ({"TENANCY_ROLE": ""}, "never guessed"),
        ({"TENANCY_WORKLOAD": "Shop"}, "namespace/name"),
    ],
)
def test_an_identity_that_contradicts_itself(variables: dict[str, str], says: str) -> None:
    """What would raise at start is an error here, in the same words."""
    finding = configured(**{"TENANCY_WORKLOAD": "shop/orders", **variables})[1]["identity-unclear"]
    assert says in finding.says
    assert finding.level == "error"


def test_a_sandbox_that_is_switched_off(tmp_path: Path) -> None:
    """It would act as the baseline: an error, and status 1."""
    ran = doctor(cwd=tmp_path, TENANCY_ENABLED="false", TENANCY_SANDBOX="pr-42", TENANCY_WORKLOAD="shop/orders")
    assert "switched off" in ran.finding("identity-unclear")["says"]
    assert ran.status == 1


def test_switched_off(tmp_path: Path) -> None:
    """In production that is as it should be, and no library is missed."""
    (tmp_path / "shop.py").write_text("import tenancy, requests\ntenancy.instrument()\n")
    ran = doctor("--import", "shop", cwd=tmp_path, TENANCY_ENABLED="false")
    assert (ran.status, [finding["code"] for finding in ran.report["findings"]]) == (0, ["switched-off"])
    assert ran.library("requests")["covered_by"] == []


@pytest.mark.parametrize(("sandbox", "own"), [("pr-42", 1), ("pr-43", 0)])
def test_a_sandbox(tmp_path: Path, sandbox: str, own: int) -> None:
    """It is told which routes lead to it; none is no fault, since forks start before their routes are added."""
    found, findings = configured(TENANCY_WORKLOAD="shop/orders", TENANCY_SANDBOX=sandbox, TENANCY_ROUTES=routes_file(tmp_path))
    assert found.routes is not None
    assert (found.identity, found.routes.own_routes) == (Identity("shop/orders", "sandbox", sandbox), own)
    assert [finding.code for finding in findings.values()] == ["sandbox-without-routes"] * (0 if own else 2)
    assert all(finding.level == "note" for finding in findings.values())


def test_signadot_variables() -> None:
    """They are understood, and named as where a setting comes from."""
    signadot = {"SANDBOX_NAME": "pr-42", "BASELINE_NAME": "orders", "BASELINE_NAMESPACE": "shop"}
    found, _ = configured(**{f"SIGNADOT_{name}": value for name, value in signadot.items()})
    origins = {row.name: row.origin for row in found.rows}
    assert (origins["sandbox"], origins["workload"], origins["role"]) == (
        "SIGNADOT_SANDBOX_NAME",
        "SIGNADOT_BASELINE_NAME",
        "default",
    )
    assert found.identity == Identity("shop/orders", "sandbox", "pr-42")
    assert "SIGNADOT_SANDBOX_NAME" in configured(SIGNADOT_SANDBOX_NAME="PR_42")[1]


def test_settings_of_the_application_go_first(tmp_path: Path) -> None:
    """What ``tenancy.configure`` has set is in force, and said to be from there."""
    (tmp_path / "shop.py").write_text(
        "import tenancy\ntenancy.configure(role='baseline', workload='shop/notify')\ntenancy.instrument()\n"
    )
    ran = doctor("--import", "shop", cwd=tmp_path, TENANCY_ROUTES=routes_file(tmp_path), TENANCY_WORKLOAD="shop/orders")
    settings = {setting["name"]: setting for setting in ran.report["settings"]}
    assert (ran.status, ran.report["identity"]["workload"]) == (0, "shop/notify")
    assert settings["workload"]["origin"] == "tenancy.configure()"
    assert settings["routes"]["origin"] == "TENANCY_ROUTES"


def test_every_mistake_in_the_settings_is_told(tmp_path: Path) -> None:
    """Not only the first one, which is all that a start would show; the rest of the report is there."""
    variables = {
        "TENANCY_READ": "baggage:",
        "TENANCY_ACCEPT": "\udcff",
        "TENANCY_SANDBOX": "PR_42",
        "TENANCY_ROUTES_DEADLINE": "soon",
        "TENANCY_CACHE_HEADERS": "maybe",
        "TENANCY_WRITE": "header:x",
    }
    ran = doctor(cwd=tmp_path, **variables)
    assert {finding["about"] for finding in ran.report["findings"] if finding["code"] == "setting-invalid"} == variables.keys()
    assert ran.library("requests")["version"]
    assert ran.err == ""


@pytest.mark.parametrize(
    ("variables", "about"),
    [
        ({"TENANCY_TRUSTED_HOSTS": "https://example.com/"}, "trusted_hosts"),
        ({"TENANCY_RESPONSE_HEADER": "x y"}, "response_header"),
    ],
)
def test_mistakes_that_show_only_in_use(tmp_path: Path, variables: dict[str, str], about: str) -> None:
    """A host that is none, and a header name that is none, are told although reading the settings does not mind."""
    assert configured(TENANCY_ROUTES=routes_file(tmp_path), **IDENTITY, **variables)[1]["setting-invalid"].about == about


def test_known_keys_need_a_table() -> None:
    """Servers raise at start where accept is known and there is no route source."""
    assert "accept-without-routes" in configured(TENANCY_ACCEPT="known", **IDENTITY)[1]


def test_variables_that_are_nearly_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slip of the pen is told; what Kubernetes makes of the name of a Service is not, and neither is a table's own variable."""
    monkeypatch.setenv("TENANCY_ROLES", "{}")
    _, findings = configured(
        TENANCY_ROLLE="baseline",
        TENANCY_UI_SERVICE_HOST="10.0.0.1",
        TENANCY_PORT="tcp://10.0.0.1:80",
        TENANCY_ROLES="{}",
        TENANCY_ROUTES="env:TENANCY_ROLES",
        **IDENTITY,
    )
    assert {finding.about for finding in findings.values() if finding.code == "setting-unknown"} == {"TENANCY_ROLLE"}
    assert "TENANCY_ROLE" in findings["setting-unknown"].do
    assert findings["workload-unknown"].level == "error"


def test_a_variable_that_is_set_and_empty() -> None:
    """That is how a fork loses its identity, so it is told."""
    assert configured(TENANCY_SANDBOX="", **IDENTITY)[1]["setting-empty"].about == "TENANCY_SANDBOX"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read"),
        ("{", "is not JSON"),
        ("[]", "must be a mapping"),
        ('{"routes": [{"key": "PR"}]}', "lacks"),
        (b"\xff", "cannot be read"),
    ],
)
def test_a_route_file_that_cannot_be_read(tmp_path: Path, content: str | bytes | None, says: str) -> None:
    """Missing, not JSON, no table, not text: each is an error with the reason."""
    path = tmp_path / "routes.json"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    found, findings = configured(TENANCY_ROUTES=path.as_uri(), **IDENTITY)
    assert says in findings["routes-unreadable"].says
    assert found.routes == Routes(path.as_uri(), readable=False)


@pytest.mark.skipif(os.getuid() == 0, reason="root reads everything")
def test_a_route_file_without_permission(tmp_path: Path) -> None:
    """The reason is the system's."""
    url = routes_file(tmp_path)
    (tmp_path / "routes.json").chmod(0)
    assert "Permission denied" in configured(TENANCY_ROUTES=url, **IDENTITY)[1]["routes-unreadable"].says


def test_an_unreadable_route_file_is_status_1(tmp_path: Path) -> None:
    """The rest of the report is there."""
    ran = doctor(cwd=tmp_path, TENANCY_ROUTES="file:///nowhere/routes.yaml", **IDENTITY)
    assert (ran.status, ran.codes, ran.report["routes"]["readable"]) == (1, ["routes-unreadable"], False)


def test_a_source_that_needs_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pip command of the error is what to do."""
    monkeypatch.setitem(sys.modules, "yaml", None)
    (tmp_path / "routes.yaml").write_text("workloads: [shop/orders]")
    finding = configured(TENANCY_ROUTES=(tmp_path / "routes.yaml").as_uri(), **IDENTITY)[1]["routes-unreadable"]
    assert finding.do == "pip install 'request-tenancy[yaml]'"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_route_source_that_hangs(tmp_path: Path) -> None:
    """It is given up at the deadline of the settings."""
    os.mkfifo(tmp_path / "routes.json")
    url = (tmp_path / "routes.json").as_uri()
    _, findings = configured(TENANCY_ROUTES=url, TENANCY_ROUTES_DEADLINE="0.5", **IDENTITY)
    assert "more than 0.5 s" in findings["routes-unreadable"].says
    os.close(os.open(tmp_path / "routes.json", os.O_RDWR | os.O_NONBLOCK))  # lets the thread that was left behind end


def test_a_large_route_table(tmp_path: Path) -> None:
    """100,000 routes are counted, not printed."""
    routes = [{"workload": f"shop/w{n % 50}", "key": f"pr-{n // 50}", "sandbox": "s"} for n in range(100_000)]
    (tmp_path / "routes.json").write_text(json.dumps({"routes": routes}))
    ran = run(
        *DOCTOR,
        cwd=tmp_path,
        variables={**IDENTITY, "TENANCY_WORKLOAD": "shop/w1", "TENANCY_ROUTES": (tmp_path / "routes.json").as_uri()},
    )
    assert "100000 routes, 2000 keys, 50 workloads" in " ".join(ran.out.split())
    assert len(ran.out) < 10_000


def test_no_secret_is_printed(tmp_path: Path) -> None:
    """Passwords in URLs, in messages of errors and in OpenTelemetry's headers stay where they are, in text as in JSON."""
    (tmp_path / "shop.py").write_text("raise RuntimeError('amqp://ann:hunter2-c@mq/ password=hunter2-d')\n")
    variables = {
        "TENANCY_ROUTES": "redis://ann:hunter2-a@x/y@host/0?password=hunter2-b",
        "TENANCY_TRUSTED_HOSTS": "https://ann:hunter2-e@example.com",
        "TENANCY_ROUTE_TABLE": '{"secret": "hunter2-f"}',
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=hunter2-g",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "https://ann:hunter2-h@otlp",
        "DATABASE_URL": "postgresql://ann:hunter2-i@db",
    }
    for arguments in ((), ("--json",)):
        ran = run(*DOCTOR, "--import", "shop", *arguments, cwd=tmp_path, variables=variables)
        assert "hunter2" not in ran.out + ran.err
        assert "redis://***@host/0?password=***" in " ".join(ran.out.split())
