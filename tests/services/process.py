"""
Local processes in private directories, of which nothing is left behind, whatever becomes of the run that started them.
"""

from __future__ import annotations

import atexit
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from .base import StartError
from .guardian import wait_gone

__all__ = ["Process", "as_user", "private_directory", "tree", "watch"]

_lock = threading.Lock()
_guardian: subprocess.Popen[str] | None = None


def watch(key: str, **entry: Any) -> None:
    """
    Tell the guardian, which is started with the first call, what it has to end if this process dies; without an entry, forget it.

    Args:
        key: A name for the thing.
        entry: `pid` and `signal` of a process that leads its group, a `directory` to remove, or a `command` to run.
    """
    global _guardian
    with _lock:
        if _guardian is None:
            script = str(Path(__file__).with_name("guardian.py"))
            # In a session of its own it does not hear the terminal's Ctrl-C, and can clean up after it.
            _guardian = subprocess.Popen(
                [sys.executable, "-I", "-S", script],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                text=True,
                cwd="/",
                start_new_session=True,
            )
            atexit.register(_dismiss)
        assert _guardian.stdin is not None
        _guardian.stdin.write(json.dumps({"key": key, **entry}) + "\n")
        _guardian.stdin.flush()


def _dismiss() -> None:
    """
    Close the guardian's pipe, at which it ends what nobody closed, and wait for it.
    """
    if _guardian is not None and _guardian.stdin is not None:
        _guardian.stdin.close()
        try:
            _guardian.wait(timeout=30)
        except subprocess.TimeoutExpired:
            pass


def tree(pid: int) -> list[int]:
    """
    List a process and all its descendants, the process first; only itself where there is no /proc.

    Args:
        pid: The process at the root.
    """
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(entry.read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError, ValueError):
            continue
        children.setdefault(parent, []).append(int(entry.parent.name))
    found = [pid]
    for each in found:
        found.extend(children.get(each, ()))
    return found


class Process:
    """
    One process of a server, at the head of a session of its own.

    Args:
        arguments: The command line.
        environment: All of its environment.
        directory: Where it runs.
        log: Where its output goes.
        user: The account it runs as; None for our own.
        end: The signal that asks it to shut down.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        environment: dict[str, str],
        directory: Path,
        log: IO[bytes],
        user: str | None = None,
        end: signal.Signals = signal.SIGTERM,
    ) -> None:
        self._end = end
        self._finished = False
        self._ending = threading.Lock()
        self._popen = subprocess.Popen(
            arguments,
            env=environment,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **as_user(user),
        )
        self.pid = self._popen.pid
        watch(f"process {self.pid}", pid=self.pid, signal=int(end))

    @property
    def exit_code(self) -> int | None:
        """
        The exit code; None while it runs.
        """
        return self._popen.poll()

    def stop(self, seconds: float = 20.0) -> None:
        """
        Ask it to end, and kill it if it does not.

        Args:
            seconds: How long to wait for it.
        """
        with self._ending:
            if self._finished:
                return
            family = tree(self.pid)
            if self.exit_code is None:
                self._popen.send_signal(self._end)
                try:
                    self._popen.wait(timeout=seconds)
                except subprocess.TimeoutExpired:
                    pass
            self._finish(family)

    def kill(self) -> None:
        """
        End it at once.
        """
        with self._ending:
            if not self._finished:
                self._finish(tree(self.pid))

    def _finish(self, family: list[int]) -> None:
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        self._popen.wait()
        # Children that left the group (Erlang's helpers, PostgreSQL's backends) end by themselves when they see their parent gone.
        for pid in wait_gone(family[1:], 5):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        watch(f"process {self.pid}")
        self._finished = True


def as_user(user: str | None) -> dict[str, Any]:
    """
    Give the arguments with which subprocess runs a command as another user.

    Args:
        user: The name of the account; None for our own.
    """
    if user is None:
        return {}
    return {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}


def private_directory(name: str, user: str | None) -> Path:
    """
    Make a new directory that only its owner can read, in a place that the owner can reach.

    Args:
        name: The service, for the directory's name.
        user: The account that shall own it; None for our own.

    Raises:
        StartError: If no temporary directory can be reached by that account.
    """
    for base in (Path(tempfile.gettempdir()).resolve(), Path("/tmp"), Path("/var/tmp")):
        if user is not None and not all(place.stat().st_mode & 0o001 for place in (base, *base.parents)):
            continue
        directory = Path(tempfile.mkdtemp(prefix=f"tenancy-{name}-", dir=base))
        watch(f"directory {directory}", directory=str(directory))
        if user is not None:
            shutil.chown(directory, user)
        return directory
    raise StartError(f"no temporary directory that the user {user} can reach")
