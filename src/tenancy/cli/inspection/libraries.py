"""
The libraries: which are there, who carries the routing key through each now, what is lost, and what to do.

None of them is imported for it: versions are read from metadata, and only what the process has imported already is looked at.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

from ... import instrumentation
from .catalogue import LIBRARIES, Entry
from .distributions import Distribution, Installed, allows
from .package import local_copy
from .patching import find, holders, is_from, layers, our_patches, source_of
from .report import Adapter, Application, Finding, Instrumentation, Library, failure

__all__ = ["inspect_libraries"]

_OURS = "request-tenancy"
# Our adapters import these, so that their being imported says nothing.
_SHARED = ("tenancy.http.asgi", "tenancy.http.wsgi")


class _Place(NamedTuple):
    distribution: Distribution | None
    origin: str | None
    stranger: str | None  # the file that is, or would be, imported in place of the library


def inspect_libraries(installed: Installed, application: Application | None) -> tuple[tuple[Library, ...], list[Finding]]:
    """
    Look at every library of the catalogue, and at every other that `tenancy.instrument` knows, that is installed.

    Args:
        installed: The installed distributions.
        application: The application that was imported, if one was.
    """
    found: list[Library] = []
    findings: list[Finding] = []
    for entry in _entries():
        place = _locate(entry, installed)
        if place is None or (entry.package == "starlette" and any(library.name == "fastapi" for library in found)):
            continue
        try:
            library = _look_at(entry, place, installed, application)
            findings += _problems(entry, library, place)
        except Exception as error:  # noqa: BLE001 - objects of others are looked at, and one library is not to hide all
            findings.append(failure(entry.name, error))
            continue
        found.append(library)
    return tuple(found), list(dict.fromkeys(findings))


def _entries() -> Iterator[Entry]:
    known: set[str] = set()
    for entry in LIBRARIES:
        known.add(_adapter_name(entry) or entry.name)
        yield entry
    for name in instrumentation._ADAPTERS:
        if name not in known:
            package = name.partition(".")[0]
            yield Entry(name, package, (package,), "client", uncovered="it is passed without the key")


def _adapter_name(entry: Entry) -> str | None:
    """
    The name of a library for `tenancy.instrument`.
    """
    for name, module in instrumentation._ADAPTERS.items():
        if name in (entry.adapters or (entry.name,)) or module in entry.by_hand:
            return name
    return None


def _locate(entry: Entry, installed: Installed) -> _Place | None:
    """
    Where a library is imported from, and whether that is what was installed.
    """
    if not entry.distributions:
        return _Place(None, None, None)
    distribution = installed.find(*entry.distributions)
    origin = _origin(entry.package)
    local = local_copy(entry.package)
    if distribution is None and origin is None and local is None:
        return None
    stranger = None
    expected = _expected(distribution, entry.package)
    if origin is not None and (distribution is None or (expected is not None and not _same(Path(origin), expected))):
        stranger = origin
    elif local is not None and (origin is None or not _same(Path(origin), local)):
        stranger = str(local)
    return _Place(distribution, origin, stranger)


def _origin(package: str) -> str | None:
    module = sys.modules.get(package)
    if module is not None:
        return getattr(module, "__file__", None)
    try:
        spec = PathFinder.find_spec(package) or find_spec(package)
    except Exception:  # noqa: BLE001 - finders of others
        return None
    return None if spec is None or spec.origin in (None, "namespace") else spec.origin


def _expected(distribution: Distribution | None, package: str) -> Path | None:
    """
    The file that a distribution has put there, where it says so.
    """
    if distribution is None or distribution.editable:
        return None
    for name in (f"{package}/__init__.py", f"{package}.py"):
        if distribution.record is None or f"{name}," in distribution.record:
            path = Path(distribution.folder) / name
            if path.is_file():
                return path
    return None


def _same(one: Path, other: Path) -> bool:
    try:
        return one.resolve() == other.resolve()
    except (OSError, RuntimeError):
        return False


def _look_at(entry: Entry, place: _Place, installed: Installed, application: Application | None) -> Library:
    version = None if place.distribution is None else place.distribution.version
    if not entry.distributions:
        version = sys.version.partition(" ")[0]
    imported = sys.modules.get(entry.module or entry.package) is not None
    mine = application if application is not None and _is_of(entry, application) else None
    ours = _adapter(entry, installed, version, mine)
    theirs = _instrumentation(entry, installed, version, mine)
    covered = []
    if ours.state in ("on", "in use"):
        covered.append("tenancy")
    if theirs.state in ("on", "partly"):
        covered.append("opentelemetry")
    if entry.role == "data":  # OpenTelemetry's instrumentations of these carry nothing
        covered = [name for name in covered if name == "tenancy"]
    lost = None
    if not covered:
        lost = entry.uncovered
    elif covered == ["opentelemetry"]:
        lost = entry.opentelemetry
    return Library(
        name=entry.name,
        role=entry.role,
        version=version,
        found_at=place.origin,
        imported=imported,
        tenancy=ours,
        opentelemetry=theirs,
        covered_by=tuple(covered),
        lost=lost,
        do=None if lost is None else _do(entry, ours),
    )


def _is_of(entry: Entry, application: Application) -> bool:
    # FastAPI's adapter is Starlette's, too, and stands for both where both are installed.
    packages = {entry.package, "starlette"} if entry.package == "fastapi" else {entry.package}
    return entry.role == "server" and not packages.isdisjoint(application.frameworks)


def _do(entry: Entry, ours: Adapter) -> str:
    name = _adapter_name(entry)
    if ours.use == "instrument" and name is not None:
        return f'tenancy.instrument(), or tenancy.instrument("{name}")'
    return entry.do


def _adapter(entry: Entry, installed: Installed, version: str | None, application: Application | None) -> Adapter:
    name = _adapter_name(entry)
    module = instrumentation._ADAPTERS[name] if name is not None else next(filter(_exists, entry.by_hand), None)
    if module is None:
        return Adapter()
    use: Literal["instrument", "by hand"] = "by hand" if name is None else "instrument"
    requires = _requires(installed.find(_OURS), entry)
    supported = allows(requires, version) if requires is not None else None
    state = our_patches(module)
    # Where the application was seen, its middleware was.
    in_use = bool(application.tenancy) if application is not None else any(map(_is_used, (module, *entry.by_hand)))
    switched: Literal["on", "off", "in use", "broken", "none"] = "off"
    if state.replaced and not state.patched:
        switched = "broken"
    elif name in instrumentation._active:
        switched = "on"
    elif in_use:
        switched = "in use"
    return Adapter(module, use, switched, requires, supported, *state)


def _is_used(module: str) -> bool:
    found = sys.modules.get(module)
    if found is None or module not in _SHARED:
        return found is not None
    return bool(holders(found.TenancyMiddleware, "tenancy"))


def _exists(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _requires(own: Distribution | None, entry: Entry) -> str | None:
    """
    The versions that our own metadata asks for.
    """
    if own is None:
        return None
    wanted = {re.sub(r"[-_.]+", "-", name).lower() for name in entry.distributions}
    return next((needed.versions for needed in own.requirements if needed.extra and needed.name in wanted), None)


def _instrumentation(entry: Entry, installed: Installed, version: str | None, application: Application | None) -> Instrumentation:
    points = [
        (point, source)
        for point, source in installed.entry_points("opentelemetry_instrumentor")
        if point.name in entry.instrumentors
    ]
    if not points:
        return Instrumentation()
    source = points[0][1]
    active = [point.name for point, _ in points if _is_active(point.value)]
    wanted = [
        needed
        for needed in source.requirements
        if needed.extra in ("instruments", "instruments-any") and needed.name in map(str.lower, entry.distributions)
    ]
    requires = wanted[0].versions if wanted else None
    # As OpenTelemetry asks it: there a pre-release does not count.
    supported = allows(requires, version, prereleases=False) if wanted else None
    disabled = {name.strip() for name in os.environ.get("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "").split(",")}
    probes = [value for value in map(find, entry.probes) if value is not None] if active else []
    early = tuple(f"{module}.{name}" for value in probes for module, name in _early(value, entry))
    state: Literal["on", "partly", "off", "disabled", "unsupported", "broken", "none"] = "off"
    if application is not None and entry.marked:
        state = "on" if application.opentelemetry else "off"
    elif probes and not any(is_from(value, "opentelemetry") for value in probes):
        state = "broken"
    elif active:
        state = "on" if len(active) == len(points) else "partly"
    elif supported is False:
        state = "unsupported"
    elif "*" in disabled or disabled.issuperset(point.name for point, _ in points):
        state = "disabled"
    return Instrumentation(source.name, source.version, state, requires, supported, early)


def _is_active(value: str) -> bool:
    """
    Whether an instrumentor is on; its entry point is not loaded for it, since that would import the library.
    """
    module, _, name = value.partition(":")
    instrumentor = getattr(getattr(sys.modules.get(module), name, None), "_instance", None)
    return getattr(instrumentor, "is_instrumented_by_opentelemetry", False) is True


def _early(value: object, entry: Entry) -> list[tuple[str, str]]:
    """
    Modules of the application that took the original of a class which OpenTelemetry replaces; other people's hold it for `isinstance`.
    """
    if not isinstance(value, type) or not source_of(value).startswith("opentelemetry."):
        return []
    original = next((layer for layer in layers(value) if not source_of(layer).startswith("opentelemetry.")), None)
    return [(module, name) for module, name in holders(original, entry.package) if not _is_installed(module)]


def _is_installed(module: str) -> bool:
    file = getattr(sys.modules.get(module), "__file__", None) or ""
    return "site-packages" in file or "dist-packages" in file or file.startswith(os.path.dirname(os.__file__))


def _problems(entry: Entry, library: Library, place: _Place) -> Iterator[Finding]:
    ours, theirs = library.tenancy, library.opentelemetry
    if place.stranger is not None:
        known = f"in place of {place.distribution.title}" if place.distribution is not None else "with no version"
        yield Finding(
            "warning" if place.distribution is not None or ours.use == "instrument" else "note",
            "library-shadowed",
            entry.package,
            f"found, but is {_short(place.stranger)}, {known}, in a program that is started in this folder; nothing can be said about "
            "it, and `tenancy.instrument()` leaves it out",
            f"rename {_short(place.stranger)}, if it is not meant to be the library",
        )
    elif place.distribution is not None and place.origin is None:
        yield Finding(
            "warning",
            "library-incomplete",
            place.distribution.title,
            f"it is installed, but `import {entry.package}` finds nothing",
            f"pip install --force-reinstall {place.distribution.name}",
        )
    if ours.supported is False:
        yield Finding(
            "warning",
            "library-unsupported",
            library.title,
            f"{ours.module} supports {entry.distributions[0]}{ours.requires}; with this version it was never tried",
            f"pip install '{entry.distributions[0]}{ours.requires}'",
        )
    if ours.replaced:
        yield Finding(
            "error",
            "patch-replaced",
            library.title,
            f"tenancy is on, but others have put their own in place of ours: {', '.join(ours.replaced)}. {_sentence(entry.uncovered)}",
            "call tenancy.instrument() after them",
        )
    if ours.early:
        yield Finding(
            "warning",
            "imported-early",
            library.title,
            f"{', '.join(ours.early[:5])} was taken by name before tenancy.instrument() ran, and is the plain one: {entry.uncovered}",
            "call tenancy.instrument() before these imports, or use the attribute of the module",
        )
    if theirs.state == "broken" and ours.state not in ("on", "in use"):
        yield Finding(
            "warning",
            "instrumentation-replaced",
            library.title,
            f"{theirs.distribution} says that it is on, but others have put their own in place of it: {entry.uncovered}",
            library.do or "switch it on after them",
        )
    if theirs.early and "tenancy" not in library.covered_by:
        yield Finding(
            "warning",
            "imported-early",
            library.title,
            f"{', '.join(theirs.early[:5])} was taken by name before {theirs.distribution} was switched on, and is the plain one: "
            f"{entry.uncovered}",
            "switch it on before these imports",
        )
    if theirs.state == "unsupported" and not library.covered_by and ours.use != "instrument" and entry.role != "data":
        yield Finding(
            "warning",
            "instrumentation-unsupported",
            library.title,
            f"{theirs.distribution} {theirs.version} supports {entry.distributions[0]}{theirs.requires} and does nothing here: "
            f"{entry.uncovered}",
            entry.do,
        )


def _short(path: str) -> str:
    """
    A path as it is from here, where it is below the working folder.
    """
    try:
        return f".{os.sep}{Path(path).resolve().relative_to(Path.cwd().resolve())}"
    except (OSError, ValueError, RuntimeError):
        return path


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"
