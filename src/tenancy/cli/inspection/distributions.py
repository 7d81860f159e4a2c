"""
The installed distributions, read from their metadata without importing them; what cannot be read is left out and named.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, NamedTuple

__all__ = ["Distribution", "EntryPoint", "Installed", "Requirement", "allows", "read_installed"]


class EntryPoint(NamedTuple):
    """
    One entry point: its group, its name and the object that it names.
    """

    group: str
    name: str
    value: str


class Requirement(NamedTuple):
    """
    One requirement of a distribution.

    Args:
        name: The distribution that is required, normalised.
        versions: The versions, such as ``>=2.31``; empty: any.
        extra: The extra that it belongs to; None: it is always required.
    """

    name: str
    versions: str
    extra: str | None


@dataclass(frozen=True)
class Distribution:
    """
    One installed distribution.

    Args:
        name: Its name as it writes it.
        version: Its version; None where its metadata lacks it.
        folder: The folder that it is installed into.
        requirements: What it requires.
        entry_points: Its entry points.
        record: The text of its RECORD; None where it has none.
        editable: Whether it is installed from its source folder.
    """

    name: str
    version: str | None
    folder: str
    requirements: tuple[Requirement, ...] = ()
    entry_points: tuple[EntryPoint, ...] = ()
    record: str | None = field(default=None, repr=False)
    editable: bool = False

    @property
    def title(self) -> str:
        """
        Name and version.
        """
        return f"{self.name} {self.version or '(version unknown)'}"


@dataclass(frozen=True)
class Installed:
    """
    All distributions that this process can import from; of two with one name the first, which is what is imported.

    Args:
        distributions: By normalised name.
        broken: Metadata folders that could not be read.
    """

    distributions: Mapping[str, Distribution]
    broken: tuple[str, ...] = ()

    def find(self, *names: str) -> Distribution | None:
        """
        Return the first of the named distributions that is installed, or None.
        """
        for name in names:
            found = self.distributions.get(_normal(name))
            if found is not None:
                return found
        return None

    def version(self, name: str) -> str | None:
        """
        Return the version of a distribution, or None where it is not installed or does not say.
        """
        found = self.find(name)
        return None if found is None else found.version

    def entry_points(self, group: str) -> Iterator[tuple[EntryPoint, Distribution]]:
        """
        Yield the entry points of a group, with the distribution that each is from.
        """
        for distribution in self.distributions.values():
            for entry in distribution.entry_points:
                if entry.group == group:
                    yield entry, distribution


def read_installed(path: Iterable[str] | None = None) -> Installed:
    """
    Read the metadata of every installed distribution; never raises.

    Args:
        path: The folders to look in; default ``sys.path``.
    """
    found: dict[str, Distribution] = {}
    broken: list[str] = []
    for raw in _discovered(list(sys.path if path is None else path), broken):
        try:
            distribution = _read(raw)
        except Exception:  # noqa: BLE001 - metadata written by anybody may break in any way
            broken.append(_folder_of(raw))
            continue
        found.setdefault(_normal(distribution.name), distribution)
    return Installed(found, tuple(dict.fromkeys(broken)))


def allows(versions: str | None, version: str | None, *, prereleases: bool = True) -> bool | None:
    """
    Return whether a version is one of those that a requirement allows, or None where that cannot be told.

    Args:
        versions: Such as ``>=2.31``; None or empty: any.
        version: The version.
        prereleases: Whether a pre-release counts.
    """
    if version is None:
        return None
    if not versions:
        return True
    try:
        from packaging.specifiers import SpecifierSet
        from packaging.version import Version

        return SpecifierSet(versions).contains(Version(version), prereleases=True if prereleases else None)
    except (ImportError, ValueError):  # not installed; not a version, which is a ValueError
        return None


_REQUIREMENT = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[[^\]]*\])?\s*\(?([^;()@]*)\)?\s*(?:;(.*))?")
_EXTRA = re.compile(r"extra\s*==\s*['\"]([^'\"]+)['\"]")


def _discovered(path: list[str], broken: list[str]) -> Iterator[metadata.Distribution]:
    # One folder after the other, so that one that cannot be listed does not hide the rest.
    for folder in path:
        try:
            yield from metadata.distributions(path=[folder])
        except Exception:  # noqa: BLE001 - as above
            broken.append(folder)


def _read(raw: metadata.Distribution) -> Distribution:
    headers: Any = raw.metadata
    name, version = headers["Name"], headers["Version"]
    if not name:
        raise ValueError("no name")
    direct = _text(raw, "direct_url.json") or ""
    return Distribution(
        name=str(name),
        version=None if version is None else str(version),
        folder=str(raw.locate_file("")),
        requirements=tuple(filter(None, map(_requirement, headers.get_all("Requires-Dist") or ()))),
        entry_points=_entry_points(raw),
        record=_text(raw, "RECORD"),
        editable=bool(re.search(r'"editable"\s*:\s*true', direct)),
    )


def _entry_points(raw: metadata.Distribution) -> tuple[EntryPoint, ...]:
    try:
        return tuple(EntryPoint(entry.group, entry.name, entry.value) for entry in raw.entry_points)
    except Exception:  # noqa: BLE001 - as above; the distribution is there all the same
        return ()


def _text(raw: metadata.Distribution, name: str) -> str | None:
    try:
        return raw.read_text(name)
    except (OSError, ValueError):
        return None


def _requirement(line: str) -> Requirement | None:
    match = _REQUIREMENT.match(str(line))
    if match is None:
        return None
    extra = _EXTRA.search(match[3] or "")
    return Requirement(_normal(match[1]), match[2].replace(" ", ""), None if extra is None else extra[1])


def _normal(name: str) -> str:
    # https://packaging.python.org/en/latest/specifications/name-normalization/
    return re.sub(r"[-_.]+", "-", name).lower()


def _folder_of(raw: metadata.Distribution) -> str:
    return str(getattr(raw, "_path", None) or raw.locate_file(""))
