"""
Runs of the engine, one or several processes at a time, and what came of them.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CORPUS", "PLAIN", "UNAVAILABLE", "Outcome", "available", "run"]

_HERE = Path(__file__).parent

CORPUS = _HERE / "corpus"
#: The seed that seeded bugs are looked for from: an ordinary header, in which none of them shows.
PLAIN = CORPUS / "plain.txt"

UNAVAILABLE = (
    "atheris is not installed; it has wheels for CPython 3.11 to 3.13 on 64-bit Linux (x86), see the dev group of pyproject.toml"
)

_STATUS = re.compile(r"^#(\d+)\s+(\w+)\s+(?:cov: (\d+) ft: (\d+) )?corp: (\d+)/", re.MULTILINE)
_EXECUTIONS = re.compile(r"^stat::number_of_executed_units:\s*(\d+)", re.MULTILINE)
_REPRODUCER = re.compile(r"Test unit written to (.+)$", re.MULTILINE)
_TRACEBACK = re.compile(r"^ === Uncaught Python exception: ===\n(.*?)\n\n==", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Outcome:
    """
    What came of a run.

    Args:
        executions: Cases tried, by all processes.
        seconds: How long it took.
        coverage: Branches of `tenancy` reached by the seeds, and at the end by the process that reached most.
        features: The same of libFuzzer's features: branches, how often they were taken, and what was compared.
        corpus: Inputs that showed something new, the seeds included.
        failure: The exception that a case raised, with its traceback, or None.
        reproducer: The file that raises it again, or None.
    """

    executions: int
    seconds: float
    coverage: tuple[int, int]
    features: tuple[int, int]
    corpus: int
    failure: str | None
    reproducer: Path | None


def available() -> bool:
    """
    Return whether the engine is installed.
    """
    return importlib.util.find_spec("atheris") is not None


def run(
    folder: Path,
    *,
    executions: int,
    seconds: int,
    seed: int,
    processes: int = 1,
    seeds: Iterable[Path] = (),
    bug: str | None = None,
    blind: bool = False,
) -> Outcome:
    """
    Run the engine until it fails, or has done what it was asked to.

    Args:
        folder: Where logs and a reproducer are put.
        executions: How many cases to try, seeds included.
        seconds: When to stop in any case.
        seed: Of the engine's random numbers.
        processes: How many processes share the work, and what they find.
        seeds: Files to start from; default all of the corpus.
        bug: A name of `tests.fuzz.bugs.BUGS`, to be put into the codec.
        blind: Give the engine no coverage to be guided by; it then changes nothing but the seeds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as found:
        first = Path(found, "seeds")
        first.mkdir()
        for path in seeds or CORPUS.iterdir():
            (first / path.name).write_bytes(path.read_bytes())
        grown = Path(found, "grown")
        grown.mkdir()
        logs = [folder / f"{bug or 'codec'}{'-blind' if blind else ''}-{number}.log" for number in range(processes)]
        running = []
        for number, log in enumerate(logs):
            command = [
                *(
                    sys.executable,
                    "-m",
                    "tests.fuzz.engine",
                    *(("--bug", bug) if bug else ()),
                    *(("--blind",) if blind else ()),
                    "--",
                ),
                *(f"-runs={-(-executions // processes)}", f"-max_total_time={seconds}", f"-seed={seed + number}", "-timeout=20"),
                *("-keep_seed=1", "-max_len=512", f"-dict={_HERE / 'codec.dict'}", f"-artifact_prefix={folder}/"),
                *("-print_final_stats=1", str(grown), str(first)),
            ]
            with log.open("w") as output:
                running.append(subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=_HERE.parents[1]))
        codes: list[int | None] = []
        try:
            while None in (codes := [process.poll() for process in running]) and not any(codes):
                time.sleep(0.05)
        finally:
            for process in running:
                if process.poll() is None:
                    process.terminate()
                process.wait()
    return _outcome([log.read_text(errors="replace") for log in logs], codes, started)


def _outcome(logs: list[str], codes: list[int | None], started: float) -> Outcome:
    """
    Read the engine's output; a code is None where a process was stopped because another had ended in failure.
    """
    failure, reproducer = None, None
    for log, code in zip(logs, codes, strict=True):
        if code and failure is None:
            traceback, written = _TRACEBACK.search(log), _REPRODUCER.search(log)
            failure = traceback[1] if traceback else f"the engine ended with status {code}:\n{log[-4000:]}"
            reproducer = Path(written[1]) if written else None
    statuses = [[match.groups() for match in _STATUS.finditer(log)] for log in logs]
    executions = 0
    for log, status in zip(logs, statuses, strict=True):
        counted = _EXECUTIONS.search(log)
        executions += int(counted[1]) if counted else int(status[-1][0]) if status else 0
    covered = [(int(status[2]), int(status[3]), int(status[4])) for found in statuses for status in found if status[2] is not None]
    first, most = covered[0] if covered else (0, 0, 0), max(covered, default=(0, 0, 0))
    return Outcome(
        executions=executions,
        seconds=time.monotonic() - started,
        coverage=(first[0], most[0]),
        features=(first[1], most[1]),
        corpus=most[2],
        failure=failure,
        reproducer=reproducer,
    )
