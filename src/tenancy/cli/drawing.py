"""
A report as text for people: for a terminal, a pipe, a log; 80 columns are enough, and ASCII is.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from io import StringIO

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from .inspection.redaction import redacted
from .inspection.report import Adapter, Identity, Instrumentation, Library, Report, Routes, counted

__all__ = ["draw"]

_MIN_WIDTH, _MAX_WIDTH = 60, 120
_STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}
_WHOSE = {("tenancy",): "tenancy", ("opentelemetry",): "OpenTelemetry", ("tenancy", "opentelemetry"): "both"}
_ALWAYS_SHOWN = ("enabled", "accept", "trusted_hosts")


def draw(report: Report) -> str:
    """
    Return a report as text, with colours where standard output is a terminal that has them.
    """
    drawn = StringIO()
    terminal = sys.stdout is not None and sys.stdout.isatty()
    console = Console(file=drawn, force_terminal=terminal or None, markup=False, highlight=False, emoji=False)
    console.width = max(_MIN_WIDTH, min(console.width, _MAX_WIDTH))
    _versions(console, report)
    _settings(console, report)
    _propagators(console, report)
    _libraries(console, report)
    _findings(console, report)
    return "\n".join(line.rstrip() for line in drawn.getvalue().splitlines()) + "\n"


def _versions(console: Console, report: Report) -> None:
    _heading(console, "Versions")
    rows = [(name, version or "not installed") for name, version in report.versions.items()]
    rows.append(("package tenancy", report.package.path or "not found"))
    rows += [
        (f"other {copy.kind}", f"{copy.name}{', imported in place of ours' if copy.wins else ''}") for copy in report.package.others
    ]
    _pairs(console, rows)


def _settings(console: Console, report: Report) -> None:
    console.print()
    _heading(console, "Settings and identity")
    rows = [("this process", _who(report.identity)), ("route table", "none" if report.routes is None else _source(report.routes))]
    shown = [row for row in report.settings if row.origin != "default" or row.name in _ALWAYS_SHOWN]
    rows += [(row.name, f"{row.value} ({row.origin})") for row in shown]
    _pairs(console, rows)


def _who(identity: Identity) -> str:
    if identity.workload is None or identity.role is None:
        return "not known"
    return f"{identity.workload} ({identity.role if identity.sandbox is None else f'sandbox {identity.sandbox}'})"


def _source(routes: Routes) -> str:
    if not routes.readable or routes.seconds is None:
        return f"{routes.source}, which cannot be read"
    told = (
        f"{routes.source} (version {routes.version}, {counted(routes.routes, 'route')}, {counted(routes.keys, 'key')}, "
        f"{counted(routes.workloads, 'workload')})"
    )
    if routes.knows_workload is not None:
        told += (
            f"; {counted(routes.own_routes, 'route')} of this workload"
            if routes.knows_workload
            else "; does not know this workload"
        )
    return f"{told}; read in {routes.seconds * 1000:.0f} ms"


def _propagators(console: Console, report: Report) -> None:
    console.print()
    _heading(console, "OpenTelemetry propagators")
    found = report.propagators
    if found is not None:
        active = "cannot be told" if found.active is None else ", ".join(found.active) or "none"
        _pairs(console, [("configured", f"{', '.join(found.configured)} ({found.origin})"), ("set", active)])


def _libraries(console: Console, report: Report) -> None:
    console.print()
    _heading(console, "Libraries, as this process has them")
    if report.application is not None:
        added = ", ".join(report.application.tenancy) or "none of ours"
        if added.endswith(".instrument"):
            added = "ours comes with the first request, by tenancy.instrument()"
        _pairs(console, [("application", f"{report.application.name}, {report.application.type}; middleware: {added}")])
        console.print()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("library", "tenancy", "OpenTelemetry", "covered by"):
        table.add_column(title, overflow="fold")
    for library in report.libraries:
        table.add_row(*map(_text, (library.title, _ours(library.tenancy), _theirs(library.opentelemetry), _whose(library, report))))
    console.print(Padding(table, (0, 0, 0, 2)))
    said = {finding.about for finding in report.findings}
    rows = [
        library for library in report.libraries if library.lost and library.title not in said and _worth_telling(library, report)
    ]
    if rows:
        console.print()
        console.print(_text("  Lost as things are, and what to do where you use it:"))
        _pairs(console, [(library.name, f"{library.lost}\n-> {library.do}") for library in rows])


def _ours(adapter: Adapter) -> str:
    if adapter.use is None:
        return "no adapter"
    state = "by hand" if (adapter.use, adapter.state) == ("by hand", "off") else adapter.state
    return f"{state}, needs {adapter.requires}" if adapter.supported is False else state


def _theirs(instrumentation: Instrumentation) -> str:
    if instrumentation.state == "none":
        return "-"
    if instrumentation.state == "unsupported":
        return f"{instrumentation.version}, needs {instrumentation.requires}"
    return f"{instrumentation.state} {instrumentation.version or ''}".rstrip()


def _whose(library: Library, report: Report) -> str:
    if library.covered_by:
        return _WHOSE.get(library.covered_by, ", ".join(library.covered_by))
    if report.process.mode == "fresh":
        return "nobody" if library.tenancy.use is None else "nobody yet"
    return "nobody" if library.imported else "not imported"


def _worth_telling(library: Library, report: Report) -> bool:
    # In a fresh process nothing is imported, and what one call mends is said once, by a finding.
    return library.tenancy.use != "instrument" if report.process.mode == "fresh" else library.imported


def _findings(console: Console, report: Report) -> None:
    console.print()
    _heading(console, "Findings")
    table = Table.grid(padding=(0, 1))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for number, finding in enumerate(report.findings, start=1):
        said = Text.assemble(_text(finding.about), "\n", _text(finding.says), "\n", _text(f"-> {finding.do}", "bold"))
        table.add_row(_text(f"{number}."), _text(finding.level, _STYLES[finding.level]), said)
    if report.findings:
        console.print(Padding(table, (0, 0, 0, 1)))
        console.print()
    console.print(_text(f"tenancy doctor: {report.summary}", "bold"))


def _heading(console: Console, title: str) -> None:
    console.print(_text(title, "bold underline"))


def _pairs(console: Console, rows: Iterable[tuple[str, str]]) -> None:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(_text(name), Text("\n").join(map(_text, value.split("\n"))))
    console.print(Padding(table, (0, 0, 0, 2)))


def _text(value: str, style: str = "") -> Text:
    """
    A text without secrets, and with nothing in it that a terminal would obey.
    """
    plain = "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in redacted(value)
    )
    return Text(plain, style=style)
