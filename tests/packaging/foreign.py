"""
Run where both distributions with a package called ``tenancy`` are installed: ``python -I foreign.py ours|theirs`` (which came first).

Prints what does not hold, and exits non-zero if anything does not.
"""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

REMEDY = "pip uninstall tenancy && pip install --force-reinstall --no-deps request-tenancy"


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def python(code: str) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "-I", "-c", code)


def main(first: str) -> int:
    problems = []
    files = {str(file) for file in metadata.files("tenancy") or ()}
    if "tenancy/__init__.py" not in files:
        problems.append("the other distribution has no package called tenancy any more; this check and what speaks of it can go")
    used = python("import tenancy; tenancy.instrument(); tenancy.uninstrument()")
    # What is installed last writes over the other's tenancy/__init__.py.
    if first == "theirs":
        if used.returncode or used.stderr:
            problems.append(f"installed last, ours does not work: {used.stderr}")
    else:
        if "has no attribute 'instrument'" not in used.stderr:
            problems.append(f"installed first, ours is not in the way of theirs: {used.stderr}")
        hook = python("from tenancy.instrumentation import auto_instrument as hook; hook()")
        if hook.returncode or REMEDY not in hook.stderr:
            problems.append(f"the hook of opentelemetry-instrument does not name the remedy: {hook.stderr}")
    script = run(str(Path(sys.executable).with_name("tenancy")), "doctor", "--json")
    if script.returncode == 0 or REMEDY not in script.stdout:
        problems.append(f"tenancy doctor does not name the remedy: {script.stdout}{script.stderr}")
    for problem in problems:
        print(f"does not hold: {problem}")
    print(f"both installed, {first} first: {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
