"""
The built wheel in fresh environments: ``nox -j 2`` runs all of it, ``nox -j 2 -t ci`` what every change must pass.

The table of extras is in tests/packaging/matrix.py; a new one is a line there.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator
from email.parser import HeaderParser
from pathlib import Path

import nox
from packaging.requirements import Requirement

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT))

from tests.packaging.matrix import CORE, EXTRAS, TOGETHER, TOOLS, Row  # noqa: E402

nox.needs_version = ">=2026.10"
nox.options.default_venv_backend = "uv"
nox.options.download_python = "never"
nox.options.sessions = ["python", "wheel", "foreign", "oldest", "newest", "services"]

DIST = ROOT / "build" / "nox"
PINS = DIST / "tools.txt"
INSIDE = "tests/packaging/inside.py"


def interpreters() -> dict[str, str]:
    """
    The Pythons of this machine, by version: those of pyenv, whether or not it has them on the path, and those on the path.
    """
    found: dict[str, str] = {}
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
    for version in (f"3.{minor}" for minor in range(10, 20)):
        if version == CURRENT:
            found[version] = sys.executable
            continue
        on_path = shutil.which(f"python{version}")  # pyenv's shims are there for all versions, but do not all work
        paths = [*pyenv.glob(f"versions/{version}.*/bin/python{version}"), *([] if on_path is None else [Path(on_path)])]
        usable = [str(path) for path in paths if path.parent.name != "shims"]
        if usable:
            found[version] = usable[0]
    return found


CURRENT = f"3.{sys.version_info.minor}"
PYTHONS = interpreters()
OTHERS = [version for version in PYTHONS if version != CURRENT]


def index() -> dict[str, str]:
    """
    The package index that pip is configured to use, in uv's words; nothing where it is the default.
    """
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False).stdout
    pip = {key.rpartition(".")[2]: value.strip("'\"") for key, _, value in (line.partition("=") for line in listed.splitlines())}
    links = [link for link in pip.get("find-links", "").split() if "://" in link or Path(link).exists()]
    found = {
        "UV_DEFAULT_INDEX": pip.get("index-url", ""),
        "UV_INDEX": pip.get("extra-index-url", ""),
        "UV_INDEX_STRATEGY": "unsafe-best-match" if "extra-index-url" in pip else "",  # what pip does
        "UV_FIND_LINKS": ",".join(links),
        "UV_INSECURE_HOST": pip.get("trusted-host", ""),
        "SSL_CERT_FILE": pip.get("cert", ""),
    }
    return {name: value for name, value in found.items() if value}


if "TENANCY_NOX" not in os.environ:  # not one of the processes of `nox -j`
    os.environ.update({name: value for name, value in index().items() if name not in os.environ}, TENANCY_NOX="1")


def ci(names: Iterable[str], chosen: Iterable[str]) -> list[list[str]]:
    """
    The tags of a session's parameters.
    """
    return [["ci"] if name in set(chosen) else [] for name in names]


# ---------------------------------------------------------------------------------------------------------------------------------------
# The sessions


@nox.session(python=False, default=False)
def build(session: nox.Session) -> None:
    """Build the sdist, and the wheel from it, once for all other sessions."""
    shutil.rmtree(DIST, ignore_errors=True)
    DIST.mkdir(parents=True)
    session.run(sys.executable, "-m", "uv", "build", "--quiet", "--out-dir", str(DIST), external=True)
    # The tools are those of development; what is tested is what moves.
    known = {re.split(r"[=;\s]", line)[0].lower() for line in TOOLS} | {"uvicorn", "websockets", "waitress", "pluggy"}
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    PINS.write_text("".join(f"{line}\n" for line in lines if line.partition("==")[0].lower() in known))


# First, because it takes longest: two processes (`nox -j 2`) then end at about the same time. Of the others the oldest is that of
# `oldest`, so the newest is what is left to try on every change.
@nox.session(requires=["build"], allow_parallel=True)
@nox.parametrize("python", [PYTHONS[version] for version in OTHERS], ids=OTHERS, tags=ci(OTHERS, OTHERS[-1:]))
def python(session: nox.Session) -> None:
    """Every other Python that the machine has, with the newest of everything."""
    everything(session)
    chosen = dict.fromkeys(name for row in (CORE, *EXTRAS.values()) if not row.options for name in row.tests)
    run_pytest(session, *chosen)


WHEELS = ["none", *EXTRAS, "all"]


@nox.session(python=PYTHONS[CURRENT], requires=["build"], allow_parallel=True)
@nox.parametrize("extra", WHEELS, tags=ci(WHEELS, WHEELS))
def wheel(session: nox.Session, extra: str) -> None:
    """One extra alone, in its newest version: what must hold there, and those of its tests that need no server."""
    chosen = [] if extra == "none" else [extra]
    install(session, wheel_with(*chosen))
    session.run("python", "-I", INSIDE, *chosen)
    session.run(sys.executable, "-m", "uv", "pip", "check", "--quiet", "--python", f"{session.bin}/python", external=True)
    row = EXTRAS.get(extra, CORE)
    if extra != "all" and row.tests:  # the session `newest` tests all together
        install(session, wheel_with(*chosen), *TOOLS, *row.beside)
        tests(session, row)


@nox.session(python=PYTHONS[CURRENT], requires=["build"], allow_parallel=True, tags=["ci"])
@nox.parametrize("first", ["ours", "theirs"])
def foreign(session: nox.Session, first: str) -> None:
    """The other distribution with a package called tenancy, installed before ours and after it."""
    for distribution in (wheel_with("cli"), "tenancy==0.1.0") if first == "ours" else ("tenancy==0.1.0", wheel_with("cli")):
        install(session, distribution)
    session.run("python", "-I", "tests/packaging/foreign.py", first)


LIBRARIES = ["core", *(extra for extra, row in EXTRAS.items() if row.tests)]


@nox.session(python=next(iter(PYTHONS.values())), requires=["build"], allow_parallel=True)
@nox.parametrize("extra", LIBRARIES, tags=ci(LIBRARIES, LIBRARIES))
def oldest(session: nox.Session, extra: str) -> None:
    """The lowest version that each extra allows, on the oldest Python."""
    row, beside = EXTRAS.get(extra, CORE), []
    lowest = [floor(requirement) for requirement in required(None if extra == "core" else extra)]
    for name in row.beside:  # and of OpenTelemetry's instrumentations beside it
        beside += [floor(found) for found in required("opentelemetry") if found.name == name and extra != "core"] or [name]
    chosen = [] if extra == "core" else [extra]
    tools = [tool for tool in TOOLS if not any(found.startswith("pytest==") for found in lowest)]
    install(session, wheel_with(*chosen), *tools, *beside, *lowest, *row.period)
    tests(session, row)


@nox.session(python=PYTHONS[CURRENT], requires=["build"], allow_parallel=True)
def newest(session: nox.Session) -> None:
    """The newest version of everything at once: the tests of several extras side by side that need no server but their own."""
    everything(session)
    run_pytest(session, *TOGETHER)


@nox.session(requires=["build"])
@nox.parametrize("python", [PYTHONS[version] for version in OTHERS], ids=OTHERS)
def services(session: nox.Session) -> None:
    """Every other Python against real brokers and databases, as far as they can be had; one after the other."""
    everything(session)
    install(session, "asyncpg", "psycopg[binary]")
    run_pytest(session, "tests/messaging", "tests/routes/stores", "tests/data/test_row_partition.py", marked="service")


# ---------------------------------------------------------------------------------------------------------------------------------------
# What they share


def install(session: nox.Session, *requirements: str) -> None:
    """
    Install requirements, tools in the versions of development, unless another version is among what is asked for.
    """
    asked = {name for name, equals, _ in (requirement.partition("==") for requirement in requirements) if equals}
    constraints = Path(session.create_tmp()) / "constraints.txt"
    constraints.write_text("".join(f"{line}\n" for line in PINS.read_text().splitlines() if line.partition("==")[0] not in asked))
    session.install("--quiet", "--constraint", str(constraints), *requirements)


def everything(session: nox.Session) -> None:
    """
    Install all extras, and whatever any test of the table imports.
    """
    beside = dict.fromkeys(name for row in EXTRAS.values() for name in row.beside)
    install(session, wheel_with("all", "opentelemetry"), *TOOLS, *beside)


def tests(session: nox.Session, row: Row) -> None:
    if row.tests:
        run_pytest(session, *row.options, *row.tests)


def run_pytest(session: nox.Session, *arguments: str, marked: str = "not service") -> None:
    session.run("python", "-m", "pytest", "-q", "-m", marked, "-p", "no:cacheprovider", *arguments, *session.posargs)


def wheel_with(*extras: str) -> str:
    """
    The built wheel as a requirement.
    """
    (path,) = DIST.glob("*.whl")
    return f"{path}[{','.join(extras)}]" if extras else str(path)


def required(extra: str | None) -> Iterator[Requirement]:
    """
    What the built wheel requires: always, or for one extra.
    """
    (path,) = DIST.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        described = HeaderParser().parsestr(archive.read(name).decode())
    for line in described.get_all("Requires-Dist") or ():
        requirement = Requirement(line)
        wanted = (
            requirement.marker is None if extra is None else requirement.marker and requirement.marker.evaluate({"extra": extra})
        )
        if wanted:
            yield requirement


def floor(requirement: Requirement) -> str:
    """
    The lowest version that a requirement allows, as a requirement.
    """
    (lowest,) = [specifier.version for specifier in requirement.specifier if specifier.operator == ">="]
    return f"{requirement.name}=={lowest}"
