"""
Servers as Docker containers, where a Docker engine answers and there is no local binary.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from uuid import uuid4

from .base import DEADLINE, Missing, Service, StartError, free_port
from .local import Local
from .process import watch

__all__ = ["Container"]


def _docker(*arguments: str, seconds: float = 60) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            ["docker", *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(arguments, 1, "", str(error))


class Container(Service):
    """
    One service in a container of its own, its port published on 127.0.0.1.

    Args:
        kind: The service, which names the image and knows how to ask it whether it is ready.
    """

    origin = "docker"

    def __init__(self, kind: type[Local]) -> None:
        self.name = kind.name
        self._kind = kind
        self._image = kind.image()
        self._port = free_port()
        self.address = kind.url("127.0.0.1", self._port)
        self._container = f"tenancy-{kind.name}-{uuid4().hex[:12]}"
        self._made = False

    @classmethod
    def of(cls, kind: type[Local]) -> Container:
        """
        Return a container for a service, its image pulled and ready to be started.

        Args:
            kind: The service.

        Raises:
            Missing: If no Docker engine answers, or the image cannot be had.
        """
        if shutil.which("docker") is None:
            raise Missing("there is no docker command")
        # The command is often there without an engine; before 24.0 `docker info` then still ended with 0, but with no version.
        info = _docker("info", "--format", "{{json .ServerVersion}}", seconds=20)
        if info.returncode or not info.stdout.strip().strip('"'):
            raise Missing("no Docker engine answers")
        name = kind.image().name
        if _docker("image", "inspect", name).returncode:
            pulled = _docker("pull", "--quiet", name, seconds=600)
            if pulled.returncode:
                raise Missing(f"Docker could not pull {name} ({pulled.stderr.strip()[-200:]})")
        return cls(kind)

    def start(self) -> None:
        if self._made:
            state = _docker("inspect", "--format", "{{json .State.Running}}", self._container)
            if state.stdout.strip() == "true":
                return
            done = _docker("start", self._container)
        else:
            # Told before it exists: the guardian's removal of a container that was never made is harmless.
            watch(self._container, command=["docker", "rm", "--force", "--volumes", self._container])
            done = _docker(*self._run_arguments(), seconds=DEADLINE)
            self._made = True
        if done.returncode:
            raise StartError(f"{self.name}: Docker could not start {self._image.name}: {done.stderr.strip()[-500:]}")
        deadline = time.monotonic() + DEADLINE
        while not self._kind.answers("127.0.0.1", self._port):
            if time.monotonic() > deadline:
                raise StartError(f"{self.name} in Docker does not answer on port {self._port}:\n{self.log_tail()}")
            time.sleep(0.1)

    def _run_arguments(self) -> list[str]:
        arguments = ["run", "--detach", "--name", self._container, "--publish", f"127.0.0.1:{self._port}:{self._image.port}"]
        for variable, value in self._image.environment.items():
            arguments += ["--env", f"{variable}={value.replace('{port}', str(self._port))}"]
        return [*arguments, self._image.name, *self._image.arguments]

    def stop(self) -> None:
        _docker("stop", "--time", "20", self._container)

    def kill(self) -> None:
        _docker("kill", self._container)

    def close(self) -> None:
        if self._made:
            _docker("rm", "--force", "--volumes", self._container)
            watch(self._container)
            self._made = False

    def log_tail(self, lines: int = 30) -> str:
        done = _docker("logs", "--tail", str(lines), self._container)
        return done.stdout + done.stderr
