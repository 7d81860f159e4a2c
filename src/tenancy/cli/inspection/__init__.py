"""
The inspection behind ``tenancy doctor``: looks at this process and its environment, and draws nothing.

It needs neither click nor rich, imports no client library, and changes nothing but what importing the application changes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, Literal, TypeVar

from ... import instrumentation
from ...config import Settings
from .application import covered_by_instrument, import_application, inspect_application, parse_reference
from .configuration import Configuration, inspect_configuration
from .coverage import judge_coverage
from .distributions import Installed, allows, read_installed
from .libraries import inspect_libraries
from .package import inspect_package
from .propagators import inspect_propagators
from .report import Finding, Identity, Package, Process, Report, failure

__all__ = ["Finding", "Report", "inspect", "parse_reference"]

T = TypeVar("T")

_LEVELS = ("error", "warning", "note")
_NOT_COMPARED = Finding(
    "note",
    "versions-not-compared",
    "packaging",
    "it is not installed, so whether versions are supported is not known",
    "pip install packaging",
)
_AUTOMATIC = "opentelemetry.instrumentation.auto_instrumentation"


def inspect(modules: tuple[str, ...] = (), application: str | None = None) -> Report:
    """
    Inspect this process: who carries the routing key through it, what is lost, and what to do.

    Args:
        modules: Modules to import first, so that what they switch on is seen.
        application: The application to import after them, ``module:attribute``.

    Raises:
        ValueError: If *application* names none.
    """
    if application is not None:
        parse_reference(application)
    findings: list[Finding] = []
    imported = (*modules, *([application] if application else []))
    automatic = _AUTOMATIC in sys.modules

    served, problems = import_application(modules, application)
    findings += problems
    installed = _part("installed distributions", read_installed, Installed({}), findings)
    seen = None
    if served is not None:
        seen = _part("application", lambda: inspect_application(str(application), served), None, findings)
    mode: Literal["fresh", "application", "opentelemetry-instrument"]
    mode = "application" if imported else "opentelemetry-instrument" if automatic else "fresh"

    package = _judged("package", lambda: inspect_package(installed), Package(None, None), findings)
    propagators = _judged("propagators", lambda: inspect_propagators(installed), None, findings)
    libraries = _judged("libraries", lambda: inspect_libraries(installed, seen), (), findings)
    consumers = any(library.tenancy.state == "in use" for library in libraries if library.role == "messages") or (
        mode == "fresh" and any(library.tenancy.use == "by hand" for library in libraries if library.role == "messages")
    )
    configuration = _judged(
        "settings",
        lambda: inspect_configuration(os.environ, consumers=consumers),
        Configuration(Settings(), (), Identity(), None),
        findings,
    )
    report = Report(
        versions=_versions(installed),
        package=package,
        process=Process(mode, imported, tuple(instrumentation._active)),
        settings=configuration.rows,
        identity=configuration.identity,
        routes=configuration.routes,
        propagators=propagators,
        application=None if seen is None else covered_by_instrument(seen, libraries),
        libraries=libraries,
    )
    if configuration.settings.enabled:
        findings += _part("coverage", lambda: judge_coverage(report, automatic=automatic, failed=bool(problems)), [], findings)
    findings += [
        Finding(
            "note",
            "metadata-broken",
            path,
            "its metadata cannot be read, so what is installed there is not seen",
            "install it again",
        )
        for path in installed.broken
    ]
    if allows(">=1", "1") is None:
        findings.append(_NOT_COMPARED)
    ordered = sorted(dict.fromkeys(findings), key=lambda finding: _LEVELS.index(finding.level))
    return Report(**{**vars(report), "findings": tuple(ordered)})


def _versions(installed: Installed) -> dict[str, str | None]:
    names = ("request-tenancy", "opentelemetry-api", "opentelemetry-sdk", "opentelemetry-instrumentation")
    return {"python": sys.version.partition(" ")[0], **{name: installed.version(name) for name in names}}


def _part(name: str, look: Callable[[], T], otherwise: T, findings: list[Finding]) -> T:
    """
    One part of the inspection; where it fails itself, the rest of the report is still worth having.
    """
    try:
        return look()
    except Exception as error:  # noqa: BLE001 - as the sentence above says
        findings.append(failure(name, error))
        return otherwise


def _judged(name: str, look: Callable[[], tuple[Any, list[Finding]]], otherwise: Any, findings: list[Finding]) -> Any:
    nothing: tuple[Any, list[Finding]] = (otherwise, [])
    found, problems = _part(name, look, nothing, findings)
    findings += problems
    return found
