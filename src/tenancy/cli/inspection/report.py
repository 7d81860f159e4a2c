"""
What an inspection finds, as plain data: the parts of a report, and what is wrong.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from .redaction import redacted

__all__ = [
    "SCHEMA",
    "Adapter",
    "Application",
    "Copy",
    "Finding",
    "Identity",
    "Instrumentation",
    "Library",
    "Package",
    "Process",
    "Propagators",
    "Report",
    "Routes",
    "Setting",
    "counted",
    "failure",
]

#: Rises when a field of the report in JSON goes away or changes its meaning; new fields do not raise it.
SCHEMA = 1

Level = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """
    One thing to know.

    Args:
        level: ``error``: something does not work, or does the wrong thing; ``warning``: a routing key is lost somewhere, or may be;
            ``note``: nothing is lost.
        code: A fixed word for scripts.
        about: What it is about: a setting, a library, a file.
        says: What is wrong, and what is lost by it.
        do: What to do.
    """

    level: Level
    code: str
    about: str
    says: str
    do: str


def failure(name: str, error: Exception) -> Finding:
    """
    Return the finding that a part of the inspection failed itself.
    """
    return Finding(
        "error",
        "inspection-failed",
        name,
        f"the inspection itself failed with {type(error).__name__}: {error}",
        "report it to the developers of request-tenancy, with this line",
    )


@dataclass(frozen=True)
class Copy:
    """
    Something else that is called ``tenancy``.

    Args:
        kind: ``distribution``, ``folder`` or ``file``.
        name: The distribution with its version, or the path.
        wins: Whether a program that is started in this folder imports it in place of ours.
    """

    kind: str
    name: str
    wins: bool


@dataclass(frozen=True)
class Package:
    """
    The package ``tenancy`` as this process imports it.

    Args:
        path: Its folder.
        whole: Whether its files are those that were installed; None where that cannot be told, as in an editable installation.
        others: Whatever else is called ``tenancy``.
    """

    path: str | None
    whole: bool | None
    others: tuple[Copy, ...] = ()


@dataclass(frozen=True)
class Process:
    """
    What this process is like.

    Args:
        mode: ``fresh``: nothing of the service runs in it; ``application``: modules of the service were imported;
            ``opentelemetry-instrument``: it was started by that, without an application.
        imported: The modules that were imported for the inspection.
        instrumented: The libraries that `tenancy.instrument` has switched on.
    """

    mode: Literal["fresh", "application", "opentelemetry-instrument"]
    imported: tuple[str, ...] = ()
    instrumented: tuple[str, ...] = ()


@dataclass(frozen=True)
class Setting:
    """
    One setting in force.

    Args:
        name: The parameter of `tenancy.Settings`.
        value: Its value, in words.
        origin: A variable, ``tenancy.configure()`` or ``default``.
    """

    name: str
    value: str
    origin: str


@dataclass(frozen=True)
class Identity:
    """
    Who this process is; all None where it is not said, or not said clearly.
    """

    workload: str | None = None
    role: str | None = None
    sandbox: str | None = None


@dataclass(frozen=True)
class Routes:
    """
    The route source and its table.

    Args:
        source: Its URL.
        readable: Whether it could be read.
        version: The table's version.
        routes: How many routes it has.
        keys: How many routing keys.
        workloads: How many workloads.
        knows_workload: Whether it knows this process's workload; None where that is not said.
        own_routes: How many of its routes fork this workload and, in a sandbox, lead to this sandbox.
        seconds: How long reading it took.
    """

    source: str
    readable: bool
    version: int | None = None
    routes: int | None = None
    keys: int | None = None
    workloads: int | None = None
    knows_workload: bool | None = None
    own_routes: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Propagators:
    """
    OpenTelemetry's propagators.

    Args:
        configured: What ``OTEL_PROPAGATORS`` says, or its default.
        origin: ``OTEL_PROPAGATORS`` or ``default``.
        active: What is really set, in order; None where that cannot be had.
    """

    configured: tuple[str, ...]
    origin: str
    active: tuple[str, ...] | None


@dataclass(frozen=True)
class Application:
    """
    The object that ``--app`` names.

    Args:
        name: As it was given.
        type: Its class.
        frameworks: The top-level packages of its class and of what that inherits from.
        tenancy: The classes of this library that stand around it or in its middleware; or, where `tenancy.instrument` adds ours at the
            first request, the function that has switched that on, such as ``tenancy.http.flask.instrument``.
        opentelemetry: Whether OpenTelemetry instruments it.
    """

    name: str
    type: str
    frameworks: tuple[str, ...]
    tenancy: tuple[str, ...]
    opentelemetry: bool


@dataclass(frozen=True)
class Adapter:
    """
    What this library has for a client library or framework.

    Args:
        module: Our module; None where there is none.
        use: ``instrument``: `tenancy.instrument` switches it on; ``by hand``: a decorator or a call in the service does; None.
        state: ``on``, ``off``, ``in use`` (by hand, imported), ``broken`` (on, but replaced by somebody else) or ``none``.
        requires: The versions that it supports, such as ``>=2.31``.
        supported: Whether the installed version is one of them; None where that cannot be told.
        patched: The attributes that are replaced by ours now.
        replaced: Those among our replacements that somebody else has taken out.
        early: Modules that took an attribute by name before it was replaced, and so use the plain one.
    """

    module: str | None = None
    use: Literal["instrument", "by hand"] | None = None
    state: Literal["on", "off", "in use", "broken", "none"] = "none"
    requires: str | None = None
    supported: bool | None = None
    patched: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    early: tuple[str, ...] = ()


@dataclass(frozen=True)
class Instrumentation:
    """
    What OpenTelemetry has for a client library or framework.

    Args:
        distribution: The distribution of the instrumentation; None where none is installed.
        version: Its version.
        state: ``on``, ``partly`` (some of its instrumentors), ``off``, ``disabled`` (by ``OTEL_PYTHON_DISABLED_INSTRUMENTATIONS``),
            ``unsupported`` (the installed version is none of those it requires), ``broken`` (on, but replaced by somebody else) or
            ``none``.
        requires: The versions that it supports.
        supported: Whether the installed version is one of them; None where that cannot be told.
        early: Modules that took a class by name before it was replaced, and so use the plain one.
    """

    distribution: str | None = None
    version: str | None = None
    state: Literal["on", "partly", "off", "disabled", "unsupported", "broken", "none"] = "none"
    requires: str | None = None
    supported: bool | None = None
    early: tuple[str, ...] = ()


@dataclass(frozen=True)
class Library:
    """
    One client library or framework that was found.

    Args:
        name: Its name.
        role: ``server``, ``client``, ``messages``, ``data`` or ``threads``.
        version: Its version; None where it has no metadata.
        found_at: Where it is imported from.
        imported: Whether it is imported in this process.
        tenancy: What this library has for it.
        opentelemetry: What OpenTelemetry has for it.
        covered_by: Who carries the routing key through it now: ``tenancy``, ``opentelemetry``, both or nobody.
        lost: What is lost as things are now; None: nothing.
        do: What to do about it.
    """

    name: str
    role: str
    version: str | None
    found_at: str | None
    imported: bool
    tenancy: Adapter
    opentelemetry: Instrumentation
    covered_by: tuple[str, ...]
    lost: str | None
    do: str | None

    @property
    def title(self) -> str:
        """
        Name and version.
        """
        return f"{self.name} {self.version or '(no version)'}"


@dataclass(frozen=True)
class Report:
    """
    All that an inspection has found. Secrets are taken out of every text in it.
    """

    versions: dict[str, str | None]
    package: Package
    process: Process
    settings: tuple[Setting, ...]
    identity: Identity
    routes: Routes | None
    propagators: Propagators | None
    application: Application | None
    libraries: tuple[Library, ...]
    findings: tuple[Finding, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """
        Whether nothing is lost and nothing is wrong.
        """
        return all(finding.level == "note" for finding in self.findings)

    @property
    def summary(self) -> str:
        """
        The outcome in one sentence.
        """
        errors, warnings, notes = (
            sum(finding.level == level for finding in self.findings) for level in ("error", "warning", "note")
        )
        shown = ", ".join(
            counted(number, word) for number, word in ((errors, "error"), (warnings, "warning"), (notes, "note")) if number
        )
        if self.ok:
            return f"nothing is wrong ({shown})" if notes else "nothing is wrong"
        worst = next(finding for level in ("error", "warning") for finding in self.findings if finding.level == level)
        return f"{shown}; begin with {worst.about}: {worst.do}"

    def as_json(self) -> dict[str, Any]:
        """
        Return the report as plain data for `json.dumps`, with ``schema``, ``ok`` and ``summary`` before its parts.
        """
        parts = redacted(dataclasses.asdict(self))
        return {"schema": SCHEMA, "ok": self.ok, "summary": redacted(self.summary), **parts}


def counted(number: int | None, word: str) -> str:
    """
    Return a number with its noun.
    """
    return f"{number} {word}{'' if number == 1 else 's'}"
