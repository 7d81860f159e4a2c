"""
Ends the servers of a test run when the run itself can no longer do so.

One guardian process stands beside each run and reads, from a pipe, what the run has started. However the run ends (normally, by
Ctrl-C, by SIGKILL), the kernel closes the pipe; the guardian then ends what is left. A parent-death signal would not do: Linux ties
it to the thread that started the child, and the services are started by short-lived threads.

The file is run as a script by a bare interpreter, so it uses the standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# Seconds that servers get to end by themselves before they are killed.
GRACE = 5.0


def alive(pid: int) -> bool:
    """
    Tell whether a process is running; a zombie, which is only waiting for its parent to look, is not.

    Args:
        pid: The process to look at.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        # The command name, in parentheses, may hold spaces and parentheses itself: count from the last one.
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return not Path("/proc/self").exists()
    return state not in "ZX"


def wait_gone(pids: Iterable[int], seconds: float) -> list[int]:
    """
    Wait until none of the processes runs any more.

    Args:
        pids: The processes to wait for.
        seconds: How long to wait at most.

    Returns:
        those still running at the end.
    """
    deadline = time.monotonic() + seconds
    left = [pid for pid in pids if alive(pid)]
    while left and time.monotonic() < deadline:
        time.sleep(0.02)
        left = [pid for pid in left if alive(pid)]
    return left


def end(watched: Iterable[dict[str, Any]]) -> None:
    """
    End all that is watched: processes first, then containers, and at last the directories they wrote to.

    Args:
        watched: Entries as `process.watch` sends them.
    """
    entries = list(watched)
    processes = {entry["pid"]: entry["signal"] for entry in entries if "pid" in entry}
    for pid, number in processes.items():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
    wait_gone(processes, GRACE)
    for pid in processes:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
    for entry in entries:
        if "command" in entry:
            subprocess.run(entry["command"], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    for entry in entries:
        if "directory" in entry:
            shutil.rmtree(entry["directory"], ignore_errors=True)


def main() -> None:
    """
    Keep the list that the run sends, a JSON object a line, and end what is on it when the pipe closes.
    """
    watched: dict[str, dict[str, Any]] = {}
    for line in sys.stdin:
        # A run that is killed in the middle of a write leaves half a line, which names nothing that was started.
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            key = entry.pop("key")
            if entry:
                watched[key] = entry
            else:
                watched.pop(key, None)
    end(watched.values())


if __name__ == "__main__":
    main()
