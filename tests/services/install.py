"""
Installs a missing server with the platform's package manager, where that is allowed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .base import Missing, flag

__all__ = ["VARIABLE", "packages"]

VARIABLE = "TENANCY_INSTALL_SERVICES"

_POLICY = Path("/usr/sbin/policy-rc.d")
# Services are started by several threads, and dpkg lets in one at a time.
_lock = threading.Lock()
_updated = False


def packages(names: Sequence[str]) -> None:
    """
    Install packages of the system, without starting what is in them.

    Args:
        names: Names of Debian packages; `a|b` is the first of the two that this release has.

    Raises:
        Missing: If it is not allowed, not possible or did not work.
    """
    global _updated
    if not flag(VARIABLE):
        raise Missing(f"{VARIABLE}=1 is not set, so nothing is installed")
    if shutil.which("apt-get") is None:
        raise Missing("only apt-get is known for installing it")
    if os.geteuid() != 0:
        raise Missing("only root can install it")
    with _lock, _no_autostart():
        if not _updated:
            _apt("update")
            _updated = True
        _apt("install", "--yes", "--no-install-recommends", *map(_choice, names))


def _choice(names: str) -> str:
    *others, last = names.split("|")
    for name in others:
        # Not `apt-cache show`, which also knows packages that others only mention.
        if subprocess.run(["apt-get", "-qq", "--simulate", "install", name], capture_output=True, check=False).returncode == 0:
            return name
    return last


def _apt(*arguments: str) -> None:
    # Another apt-get, such as the daily one, is waited for; a question would never be answered.
    command = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300", *arguments]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Missing(f"{' '.join(command)} failed ({(done.stderr or done.stdout).strip()[-300:]})")


@contextmanager
def _no_autostart() -> Iterator[None]:
    """
    Keep Debian from starting the installed servers on their well-known ports: ours run on ports of their own, and end with the run.
    """
    if _POLICY.exists():
        yield
        return
    _POLICY.write_text("#!/bin/sh\nexit 101\n")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink(missing_ok=True)
