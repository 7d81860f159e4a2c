"""
Settings, identity and route source: what is in force, where it comes from, and which mistakes are in it.
"""

from __future__ import annotations

import difflib
import threading
import time
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, NamedTuple

from ... import config
from ...config import Settings
from ...egress import Egress
from ...errors import ConfigurationError, IdentityError, TenancyError
from ...routes.identity import check_known, resolve_identity
from ...routes.live import open_routes
from ...routes.table import RouteTable
from .report import Finding, Identity, Routes, Setting

__all__ = ["Configuration", "inspect_configuration"]

_MAX_DEADLINE = 60.0
_OFF = Finding(
    "note",
    "switched-off",
    "TENANCY_ENABLED",
    "tenancy is switched off here: nothing is patched, middleware is not there, and consumers take every message",
    "nothing, if this is production; else remove it",
)
# What a variable can look like whose values have a grammar of their own.
_EXAMPLES = {"TENANCY_EDGE": "'host:{key}.preview.example.com'", "TENANCY_READ": "signadot"}
# What is no setting, but is read.
_OTHERS = ("TENANCY_ROUTE_TABLE", "TENANCY_TEST_", "TENANCY_REQUIRE_", "TENANCY_INSTALL_")


class Configuration(NamedTuple):
    """
    What is in force.

    Args:
        settings: The settings; those that cannot be used are left at their defaults.
        rows: The same, for people.
        identity: Who this process is.
        routes: The route source; None where there is none.
    """

    settings: Settings
    rows: tuple[Setting, ...]
    identity: Identity
    routes: Routes | None


def inspect_configuration(environ: Mapping[str, str], *, consumers: bool) -> tuple[Configuration, list[Finding]]:
    """
    Read the settings as the service would, one by one, and try what they name.

    Args:
        environ: Environment variables.
        consumers: Whether this process has, or may have, consumers of messages, which do not start without an identity.
    """
    findings: list[Finding] = []
    using, rows = _settings(environ, findings)
    findings += _unknown_variables(environ)
    off = not using.enabled and using.sandbox is None and using.role != "sandbox"
    if off:
        findings.append(_OFF)
    identity = Identity(using.workload, using.role, using.sandbox) if off else _identity(using, findings, consumers=consumers)
    routes = None if off else _routes(using, identity, findings, consumers=consumers)
    findings += _policies(using, usable=not any(finding.level == "error" for finding in findings))
    return Configuration(using, rows, identity, routes), findings


def _settings(environ: Mapping[str, str], findings: list[Finding]) -> tuple[Settings, tuple[Setting, ...]]:
    usable: dict[str, str] = {}
    candidates = [name for name in environ if name.startswith("SIGNADOT_")]
    candidates += [_variable(field.name) for field in fields(Settings)]
    for variable in candidates:
        text = environ.get(variable)
        if text is None:
            continue
        if not text.strip() and variable.startswith("TENANCY_"):
            findings.append(
                Finding(
                    "note",
                    "setting-empty",
                    variable,
                    "it is set, but empty, which counts as not set",
                    "give it a value, or remove it",
                )
            )
            continue
        try:
            Settings.load({**usable, variable: text})
        except ConfigurationError as error:
            findings.append(
                Finding(
                    "error",
                    "setting-invalid",
                    variable,
                    f"{error}. Whatever uses tenancy in this environment raises this",
                    f"export {variable}={_EXAMPLES[variable]}, or the like; or remove it"
                    if variable in _EXAMPLES
                    else f"correct {variable}, or remove it",
                )
            )
        else:
            usable[variable] = text
    loaded = Settings.load(usable)
    origins = {name: origin for name, (origin, _) in config._from_environment(usable).items()}
    # Set by the application that was imported, or read by it from variables that are other ones now.
    using = config._current or loaded
    rows = []
    for field in fields(Settings):
        value, plain = getattr(using, field.name), getattr(loaded, field.name)
        origin = origins.get(field.name, "default") if value == plain else "tenancy.configure()"
        rows.append(Setting(field.name, _shown(field.name, value, using), origin))
    return using, tuple(rows)


def _unknown_variables(environ: Mapping[str, str]) -> list[Finding]:
    known = [_variable(field.name) for field in fields(Settings)] + ["TENANCY_ROUTE_TABLE"]
    source = environ.get("TENANCY_ROUTES", "").strip()
    named = source.partition(":")[2].strip("/") if source.startswith("env:") else ""
    findings = []
    for name in sorted(environ):
        if not name.startswith("TENANCY_") or name in known or name == named or name.startswith(_OTHERS):
            continue
        # Kubernetes makes variables such as TENANCY_UI_SERVICE_HOST of the names of Services: only what is nearly a setting is a mistake.
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.85)
        if close:
            findings.append(
                Finding("warning", "setting-unknown", name, "it is not a setting, and nobody reads it", f"did you mean {close[0]}?")
            )
    return findings


def _identity(using: Settings, findings: list[Finding], *, consumers: bool) -> Identity:
    try:
        found = resolve_identity(using=using)
    except IdentityError as error:
        said = using.workload is not None or using.role is not None or using.sandbox is not None
        needed = said or consumers or using.routes is not None
        findings.append(
            Finding(
                "error" if said else "warning" if needed else "note",
                "identity-unclear" if said else "identity-missing",
                "identity",
                f"{error}. Consumers of messages do not start, and responses cannot say who served"
                if using.enabled
                else f"{error}. Whatever is switched on or started in this process raises this",
                "export TENANCY_WORKLOAD=namespace/name, and TENANCY_ROLE=baseline or TENANCY_SANDBOX=name"
                if using.enabled
                else "remove TENANCY_ENABLED=false",
            )
        )
        return Identity(using.workload, using.role, using.sandbox)
    return Identity(found.workload, "baseline" if found.sandbox is None else "sandbox", found.sandbox)


def _routes(using: Settings, identity: Identity, findings: list[Finding], *, consumers: bool) -> Routes | None:
    if using.routes is None:
        findings.append(
            Finding(
                "warning" if consumers else "note",
                "routes-missing",
                "route source",
                "there is none, so it is not known which keys exist: every well-formed key is accepted, and consumers of messages do not "
                "start",
                "export TENANCY_ROUTES=file:///etc/tenancy/routes.yaml",
            )
        )
        return None
    source = using.routes
    deadline = min(using.routes_deadline, _MAX_DEADLINE)
    started = time.perf_counter()
    try:
        table = _read(source, deadline)
    except Exception as error:  # noqa: BLE001 - a source may break in any way; the service meets the same
        does = "correct TENANCY_ROUTES" if isinstance(error, ConfigurationError) else "correct the source, or TENANCY_ROUTES"
        if isinstance(error, ImportError):
            does = str(error).partition("run: ")[2] or does
        says = str(error) if isinstance(error, TenancyError) else f"{type(error).__name__}: {error}"
        findings.append(
            Finding(
                "error",
                "routes-unreadable",
                "route source",
                f"{says}. No request or message that has a key is decided on without it, and consumers do not start",
                does,
            )
        )
        return Routes(source, readable=False)
    seconds = round(time.perf_counter() - started, 4)
    knows, own = _known(identity, table, findings)
    return Routes(source, True, table.version, len(table), len(table.keys()), len(table.workloads), knows, own, seconds)


def _read(source: str, deadline: float) -> RouteTable:
    """
    Read a source once, in a thread that may be left behind: a file on a lost network, or a pipe, can block for ever.
    """
    outcome: list[RouteTable | Exception] = []

    def read() -> None:
        try:
            outcome.append(open_routes(source).source.read())
        except Exception as error:  # noqa: BLE001 - carried over to the caller
            outcome.append(error)

    thread = threading.Thread(target=read, name="tenancy-doctor", daemon=True)
    thread.start()
    thread.join(deadline)
    if not outcome:
        raise TimeoutError(f"reading {source} took more than {deadline:g} s, and was given up")
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]


def _known(identity: Identity, table: RouteTable, findings: list[Finding]) -> tuple[bool | None, int | None]:
    if identity.workload is None or identity.role is None:
        return None, None
    try:
        check_known(resolve_identity(using=Settings(workload=identity.workload, role="baseline")), table)
    except IdentityError as error:
        findings.append(
            Finding(
                "error",
                "workload-unknown",
                identity.workload,
                f"{error}. Consumers of messages do not start",
                "correct either of them",
            )
        )
        return False, 0
    forks = [route for route in table if route.workload == identity.workload]
    if identity.role != "sandbox":
        return True, len(forks)
    own = [route for route in forks if route.sandbox == identity.sandbox]
    if not own:
        findings.append(
            Finding(
                "note",
                "sandbox-without-routes",
                f"sandbox {identity.sandbox}",
                f"no route of {identity.workload} leads to it, so it owns nothing yet",
                "add its route to the table when the fork is to have its share",
            )
        )
    return True, len(own)


def _policies(using: Settings, *, usable: bool) -> list[Finding]:
    findings = []
    if using.enabled and using.accept == "known" and using.routes is None:
        findings.append(
            Finding(
                "error",
                "accept-without-routes",
                "accept",
                "it is 'known', but there is no route source to know a key from; servers and consumers raise at start",
                "export TENANCY_ROUTES=file:///etc/tenancy/routes.yaml, or TENANCY_ACCEPT=all",
            )
        )
    try:
        Egress(using.trusted_hosts)
    except ConfigurationError as error:
        findings.append(
            Finding(
                "error", "setting-invalid", "trusted_hosts", f"{error}. `tenancy.instrument()` raises this", "correct the entry"
            )
        )
    if usable and using.response_header is not None:
        # Not before the libraries were looked at, for which its being imported means something.
        from ...http.asgi import TenancyMiddleware

        try:
            TenancyMiddleware(_nothing, accept="none", response_header=using.response_header)
        except ConfigurationError as error:
            findings.append(
                Finding("error", "setting-invalid", "response_header", f"{error}. Servers raise this at start", "correct the name")
            )
    return findings


async def _nothing(scope: Any, receive: Any, send: Any) -> None:
    pass


def _shown(name: str, value: Any, using: Settings) -> str:
    if name == "accept" and value is None:
        return "known" if using.routes is not None else "all"
    if name == "trusted_hosts":
        return ", ".join(value) or "private hosts only"
    if type(value) is tuple:  # a field is one, too
        return ", ".join(_shown("", entry, using) for entry in value) or "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if callable(value):
        return f"the function {getattr(value, '__qualname__', value)}"
    return "not set" if value is None else str(value)


def _variable(name: str) -> str:
    return f"TENANCY_{name.upper()}"
