"""
Running the command line as people do: in a process of its own, with an environment of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

SCRIPTS = Path(sys.executable).parent
DOCTOR = (sys.executable, "-m", "tenancy.cli", "doctor")
_NOT_PASSED_ON = ("TENANCY_", "SIGNADOT_", "OTEL_", "PYTHON", "COLUMNS", "FORCE_COLOR", "NO_COLOR", "LC_", "LANG")

#: The variables of a service that has all it needs, for `routes_file`.
IDENTITY = {"TENANCY_WORKLOAD": "shop/orders", "TENANCY_ROLE": "baseline"}


@dataclass
class Ran:
    """
    What became of one run.
    """

    status: int
    out: str
    err: str

    @cached_property
    def report(self) -> dict[str, Any]:
        report: dict[str, Any] = json.loads(self.out)
        return report

    @property
    def codes(self) -> list[str]:
        """The codes of all findings that are no notes."""
        return [finding["code"] for finding in self.report["findings"] if finding["level"] != "note"]

    def finding(self, code: str, about: str = "") -> dict[str, str]:
        found = [finding for finding in self.report["findings"] if finding["code"] == code and about in finding["about"]]
        assert len(found) == 1, (code, self.report["findings"])
        return found[0]

    def library(self, name: str) -> dict[str, Any]:
        return next(library for library in self.report["libraries"] if library["name"] == name)


def environment(variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without what would change the outcome, and with *variables*."""
    base = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_PASSED_ON)}
    exporters = {f"OTEL_{signal}_EXPORTER": "none" for signal in ("TRACES", "METRICS", "LOGS")}
    return {**base, **exporters, "PYTHONDONTWRITEBYTECODE": "1", **(variables or {})}


def run(*command: str, cwd: Path, variables: Mapping[str, str] | None = None, **options: Any) -> Ran:
    """Run a command to its end."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment(variables),
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="surrogateescape",
        timeout=100,
        check=False,
        **options,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def doctor(*arguments: str, cwd: Path, **variables: str) -> Ran:
    """Run ``tenancy doctor --json`` in a folder."""
    return run(*DOCTOR, "--json", *arguments, cwd=cwd, variables=variables)


def routes_file(folder: Path) -> str:
    """Write a route table, and return its URL."""
    path = folder / "routes.json"
    route = {"workload": "shop/orders", "key": "pr-42", "sandbox": "pr-42"}
    path.write_text(json.dumps({"version": 3, "workloads": ["shop/orders", "shop/notify"], "routes": [route]}))
    return path.as_uri()
