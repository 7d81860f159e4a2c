"""
Run by the Python of an environment into which the wheel was installed, and nothing else: ``python -I inside.py EXTRA...``.

Prints what does not hold, and exits non-zero if anything does not.
"""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
import traceback
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

MATRIX: dict[str, Any] = runpy.run_path(str(Path(__file__).with_name("matrix.py")))
CORE, EXTRAS, NOT_ALONE = MATRIX["CORE"], MATRIX["EXTRAS"], MATRIX["NOT_ALONE"]
DISTRIBUTION = "request-tenancy"

problems: list[str] = []


def expect(holds: bool, otherwise: str) -> None:
    if not holds:
        problems.append(otherwise)


def check_files() -> None:
    """The wheel holds the package, its marker for type checkers, and nothing else."""
    files = [str(file) for file in metadata.files(DISTRIBUTION) or ()]
    strays = [
        file
        for file in files
        if not re.match(
            r"tenancy/|(__pycache__/)?pytest_request_tenancy\.|request_tenancy-[^/]+\.dist-info/|(\.\./)+(bin|Scripts)/tenancy",
            file,
        )
    ]
    expect(not strays, f"the wheel brings {strays}")
    expect("tenancy/py.typed" in files, "the wheel has no tenancy/py.typed")
    expect(any(file.endswith("licenses/LICENSE") for file in files), "the wheel has no licence")
    others = {Path(file).suffix for file in files if file.startswith("tenancy/")} - {".py", ".pyc", ".typed", ".lua"}
    expect(not others, f"the package has files that end in {sorted(others)}")
    import tenancy

    expect(Path(sys.prefix) in Path(tenancy.__file__).parents, f"tenancy is imported from {tenancy.__file__}, not from the wheel")


def check_extras(asked: set[str]) -> None:
    """The table is complete, and an extra brings what its modules need."""
    described = metadata.metadata(DISTRIBUTION)
    offered = set(described.get_all("Provides-Extra") or ())
    expect(offered == set(EXTRAS) | NOT_ALONE, f"the wheel offers {sorted(offered)}, the table has {sorted(EXTRAS)}")
    for extra in asked - NOT_ALONE:
        package = EXTRAS[extra].package
        expect(find_spec(package) is not None, f"the extra {extra} does not bring {package}")


def check_modules() -> None:
    """What can be imported is, and all else names the command that brings it."""
    import tenancy

    for module in CORE.modules:
        import_module(module)
    for extra, row in EXTRAS.items():
        there = find_spec(row.package) is not None
        if not there and extra in ("testing", "cli"):  # what needs these is never imported by a program
            continue
        hint = f"pip install 'request-tenancy[{extra}]'"
        for module in row.modules:
            try:
                import_module(module)
                expect(there, f"{module} is imported without {row.package}")
            except Exception as error:
                named = isinstance(error, tenancy.MissingDependencyError) and isinstance(error, ImportError) and hint in str(error)
                expect(named and not there, f"importing {module} says {error!r}")


def check_instrument() -> None:
    """What is installed is instrumented, neither more nor less."""
    import tenancy

    rows = [CORE, *(row for row in EXTRAS.values() if find_spec(row.package) is not None)]
    expected = {name for row in rows for name in row.instruments}
    found = set(tenancy.instrument())
    expect(found == expected, f"instrument() returns {sorted(found)}, not {sorted(expected)}")
    tenancy.uninstrument()
    for row in EXTRAS.values():
        for name in row.instruments:
            if find_spec(row.package) is None:
                try:
                    tenancy.instrument(name)
                    problems.append(f"instrument({name!r}) does not raise without {row.package}")
                except tenancy.MissingDependencyError:
                    pass


def check_entry_points() -> None:
    """They load, where what they are for is installed."""
    entries = [entry for entry in metadata.distribution(DISTRIBUTION).entry_points if entry.group != "console_scripts"]
    groups = {entry.group for entry in entries}
    expect(
        groups == {"opentelemetry_propagator", "opentelemetry_post_instrument", "pytest11"}, f"entry points are of {sorted(groups)}"
    )
    for entry in entries:
        if entry.group != "pytest11" or find_spec("pytest") is not None:
            entry.load()


def check_script() -> None:
    """The script works, or names the extra that it needs."""
    script = next(Path(sys.executable).parent.glob("tenancy*"), None)
    if script is None:
        problems.append("there is no script called tenancy")
        return
    done = subprocess.run([str(script), "--help"], capture_output=True, text=True, timeout=60, check=False, env=os.environ)
    if all(find_spec(package) for package in ("click", "rich")):
        expect(done.returncode == 0 and "doctor" in done.stdout, f"tenancy --help says {done.stdout}{done.stderr}")
    else:
        hint = "pip install 'request-tenancy[cli]'"
        expect(done.returncode != 0 and hint in done.stderr, f"tenancy without [cli] says {done.stdout}{done.stderr}")
        expect("Traceback" not in done.stderr, "tenancy without [cli] shows a traceback")


def main(asked: set[str]) -> int:
    wanted = set(EXTRAS) if asked == {"all"} else asked
    for check in (check_files, lambda: check_extras(wanted), check_modules, check_instrument, check_entry_points, check_script):
        try:
            check()
        except Exception:  # the others are tried all the same
            problems.append(traceback.format_exc())
    for problem in problems:
        print(f"does not hold: {problem}")
    print(f"wheel with {', '.join(sorted(asked)) or 'no extras'}: {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(set(sys.argv[1:])))
