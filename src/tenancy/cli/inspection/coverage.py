"""
What is switched on, against what is imported: the findings that need the whole report.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from .catalogue import LIBRARIES
from .report import Finding, Library, Report

__all__ = ["judge_coverage"]


def judge_coverage(report: Report, *, automatic: bool, failed: bool) -> list[Finding]:
    """
    Judge who covers what in this process.

    Args:
        report: The report so far.
        automatic: Whether opentelemetry-instrument has started this process.
        failed: Whether the application could not be imported.
    """
    on = bool(report.process.instrumented)
    if report.process.mode == "fresh":
        return [_FRESH]
    if automatic and not on:
        return [_NOT_AUTOMATIC, *_libraries(report, automatic=True)]
    if not automatic and not _used(report):
        return [] if failed else [_unused(report)]
    return [*_application(report), *_libraries(report, automatic=automatic)]


_FRESH = Finding(
    "note",
    "nothing-imported",
    "this process",
    "it is a fresh one: nothing of your service runs in it and nothing is patched in it, so who covers a library in your service is not seen",
    "tenancy doctor --app package.module:app, or --import package.module; or opentelemetry-instrument tenancy doctor",
)
_NOT_AUTOMATIC = Finding(
    "error",
    "not-switched-on",
    "opentelemetry-instrument",
    "it has run, but tenancy.instrument() has not, or has failed: the log above this report has the reason",
    "mend the errors of this report first; if there are none, pip install --force-reinstall --no-deps request-tenancy",
)


def _unused(report: Report) -> Finding:
    return Finding(
        "error",
        "not-switched-on",
        report.process.imported[-1],
        "it was imported, and nothing of tenancy is switched on or used by it",
        "import tenancy; tenancy.instrument(), at the top of its first module; or start it by opentelemetry-instrument",
    )


def _used(report: Report) -> bool:
    by_hand = any(library.tenancy.state in ("on", "in use", "broken") for library in report.libraries)
    return bool(report.process.instrumented) or by_hand or bool(report.application and report.application.tenancy)


def _application(report: Report) -> Iterator[Finding]:
    """
    An application of a framework that is not in the catalogue.
    """
    found = report.application
    if found is None or found.tenancy or any(entry.package in found.frameworks for entry in LIBRARIES):
        return
    carried = (
        "the key is current, but whether it is accepted here is not asked"
        if found.opentelemetry
        else "a request has no key in its handler"
    )
    yield Finding(
        "warning",
        "application-uncovered",
        found.name,
        f"none of our middleware stands around it: {carried}",
        "app = TenancyMiddleware(app), of tenancy.http.asgi or tenancy.http.wsgi",
    )


def _libraries(report: Report, *, automatic: bool) -> Iterator[Finding]:
    ambient = {entry.name for entry in LIBRARIES if entry.ambient or entry.beside in sys.modules}
    for library in report.libraries:
        if library.lost is None or library.role == "data":
            continue
        if automatic and library.tenancy.use == "instrument" and library.tenancy.state == "off":
            yield _finding(
                library,
                "library-not-switched-on",
                "tenancy.instrument() has run, but has left it out; the log above this report has the reason",
            )
        # opentelemetry-instrument imports whatever it instruments, so of those it is not known whether the service uses them.
        elif library.imported and library.name not in ambient and not (automatic and library.covered_by):
            if library.covered_by:
                yield _finding(
                    library, "library-opentelemetry-only", "it is imported, and OpenTelemetry alone carries the key through it"
                )
            else:
                yield _finding(library, "library-uncovered", "it is imported, and nobody carries the key through it")


def _finding(library: Library, code: str, says: str) -> Finding:
    return Finding("warning", code, library.title, f"{says}: {library.lost}", library.do or "")
