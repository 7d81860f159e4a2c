"""
The package ``tenancy`` itself: whether it is ours, whole, and the one that the service imports.

Another distribution on the public index installs a package of this name too. pip lets the later one write over the earlier one's
``__init__.py``, and removing either takes that file away from both.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path

from .distributions import Distribution, Installed, allows
from .report import Copy, Finding, Package

__all__ = ["inspect_package", "local_copy", "working_folder"]

_OURS = "request-tenancy"
_RECORDED = re.compile(r"^\"?(?P<path>tenancy/[^,\"]*\.py)\"?,sha256=(?P<hash>[A-Za-z0-9_-]+),", re.MULTILINE)
_CLAIMS = re.compile(r"^\"?(?:\./)?tenancy(?:/[^,\n]*|\.py)\"?,", re.MULTILINE)
_REINSTALL = f"pip install --force-reinstall --no-deps {_OURS}"

#: The folder of the package that this module is a part of.
FOLDER = Path(__file__).resolve().parents[2]


def inspect_package(installed: Installed) -> tuple[Package, list[Finding]]:
    """
    Look for whatever else is called ``tenancy``, and for what it has done to us.

    Args:
        installed: The installed distributions.
    """
    findings: list[Finding] = []
    own = installed.find(_OURS)
    damaged = [] if own is None or own.editable else list(_damaged(own))
    others = [*_distributions(installed), *_copies()]
    strangers = [other.name for other in others if other.kind == "distribution"]
    if own is None:
        findings.append(
            Finding(
                "warning",
                "package-metadata-missing",
                _OURS,
                "it is imported, but not installed: there is no metadata, so opentelemetry-instrument does not find its entry points and the "
                "supported versions of libraries are not known",
                f"pip install {_OURS}",
            )
        )
    findings += [
        Finding(
            "error",
            "dependency-unsupported",
            f"{needed.name} {installed.version(needed.name)}",
            f"{_OURS} needs {needed.name}{needed.versions}",
            f"pip install '{needed.name}{needed.versions}'",
        )
        for needed in (own.requirements if own is not None else ())
        if needed.extra is None and allows(needed.versions, installed.version(needed.name)) is False
    ]
    if strangers:
        names = " ".join(name.partition(" ")[0] for name in strangers)
        findings.append(
            Finding(
                "error",
                "package-foreign",
                ", ".join(strangers),
                f"it installs a package called tenancy as well, into the same place as {_OURS}"
                + (f": {', '.join(damaged)} is not ours any more" if damaged else ""),
                f"pip uninstall {names} && {_REINSTALL}",
            )
        )
    elif damaged:
        findings.append(
            Finding(
                "error",
                "package-damaged",
                str(FOLDER),
                f"not as it was installed: {', '.join(damaged[:5])}{' and others' if len(damaged) > 5 else ''}",
                _REINSTALL,
            )
        )
    elif getattr(sys.modules.get("tenancy"), "__file__", None) is None:
        findings.append(
            Finding(
                "error", "package-damaged", str(FOLDER), "it has no __init__.py, so `tenancy.instrument` does not exist", _REINSTALL
            )
        )
    findings += [
        Finding(
            "error",
            "package-shadowed",
            other.name,
            "it comes before ours on the import path of a program that is started in this folder, which then has no `tenancy.instrument`",
            "rename it, or start the program from another folder",
        )
        for other in others
        if other.wins
    ]
    whole = None if own is None or own.editable or not own.record else not damaged
    return Package(str(FOLDER), whole, tuple(others)), findings


def working_folder() -> Path | None:
    """
    Return the working folder, or None where it is gone.
    """
    try:
        return Path.cwd()
    except OSError:
        return None


def local_copy(package: str) -> Path | None:
    """
    Return the module or package of this name that stands in the working folder itself, or None.

    Args:
        package: A top-level name.
    """
    folder = working_folder()
    if folder is None:
        return None
    for path in (folder / package / "__init__.py", folder / f"{package}.py"):
        try:
            if path.is_file():
                return path
        except OSError:
            continue
    return None


def _distributions(installed: Installed) -> Iterator[Copy]:
    for distribution in installed.distributions.values():
        if distribution.name.lower() == _OURS:
            continue
        claims = distribution.record is not None and _CLAIMS.search(distribution.record)
        if claims or (distribution.record is None and distribution.name.lower() == "tenancy"):
            yield Copy("distribution", distribution.title, wins=False)


def _copies() -> Iterator[Copy]:
    """
    Packages and modules called tenancy beside the import path's own: in the working folder, in ``PYTHONPATH``, on ``sys.path``.
    """
    folder = working_folder()
    variable = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    path = [*([str(folder)] if folder else []), *variable, *sys.path]
    winner = _found(path)
    seen = {FOLDER}
    for entry in path:
        found = _found([entry])
        if found is None or found in seen:
            continue
        seen.add(found)
        yield Copy("folder" if found.is_dir() else "file", str(found), wins=found == winner)


def _found(path: list[str]) -> Path | None:
    """
    The folder or file that ``import tenancy`` takes from these folders; a folder without ``__init__.py`` gives way to all others.
    """
    try:
        spec = PathFinder.find_spec("tenancy", path)
    except Exception:  # noqa: BLE001 - finders of others
        return None
    if spec is None or spec.origin is None:
        return None
    origin = Path(spec.origin)
    try:
        origin = origin.resolve()
    except (OSError, RuntimeError):
        pass
    return origin.parent if origin.name.startswith("__init__.") else origin


def _damaged(own: Distribution) -> Iterator[str]:
    for match in _RECORDED.finditer(own.record or ""):
        path = Path(own.folder) / match["path"]
        try:
            digest = base64.urlsafe_b64encode(hashlib.sha256(path.read_bytes()).digest()).rstrip(b"=").decode()
        except OSError:
            digest = ""
        if digest != match["hash"]:
            yield match["path"]
