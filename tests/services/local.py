"""
Servers that we run ourselves, from binaries on this machine.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, TypeVar

from .base import DEADLINE, Image, Service, StartError, free_port
from .guardian import alive
from .process import Process, as_user, private_directory, tree, watch

__all__ = ["Local"]

L = TypeVar("L", bound="Local")


class Local(Service):
    """
    A server that we run ourselves, from a binary on this machine.

    A service is a subclass: it finds its binaries in `locate`, makes its data directory in `prepare`, gives its command line, and
    knows a short question that a server which is ready answers.
    """

    origin = "local"
    variable: ClassVar[str]
    hint: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]
    end: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self) -> None:
        self.user: str | None = None
        self.port = free_port()
        self.address = self.url("127.0.0.1", self.port)
        self._directory: Path | None = None
        self._prepared = False
        self._answered = False
        self._processes: list[Process] = []
        self._spawning = threading.Lock()
        self._ending = threading.Lock()
        self._closed = False

    @classmethod
    @abstractmethod
    def locate(cls: type[L]) -> L:
        """
        Find what is needed to run the server here.

        Raises:
            Missing: If something is not there; the text says what.
        """

    @staticmethod
    @abstractmethod
    def image() -> Image:
        """
        The container image to use where there is no local binary.
        """

    @staticmethod
    @abstractmethod
    def url(host: str, port: int) -> str:
        """
        Write the address the way clients of the service take it.

        Args:
            host: Name or address of the host.
            port: The TCP port.
        """

    @staticmethod
    @abstractmethod
    def answers(host: str, port: int) -> bool:
        """
        Ask the server whether it is ready for clients.

        Args:
            host: Name or address of the host.
            port: The TCP port.
        """

    @abstractmethod
    def prepare(self) -> None:
        """
        Write configuration and data, once, into the private directory.
        """

    @abstractmethod
    def command(self) -> list[str]:
        """
        The command line of the server, which stays in the foreground.
        """

    def environment(self) -> dict[str, str]:
        """
        Variables to add to those of this process.
        """
        return {}

    def launch(self) -> None:
        """
        Start the processes of the server, the ones that others need first.
        """
        self.spawn(self.command(), end=self.end)

    @property
    def directory(self) -> Path:
        """
        The private directory, made when it is first asked for.
        """
        if self._directory is None:
            self._directory = private_directory(self.name, self.user)
        return self._directory

    def spawn(self, arguments: Sequence[str], end: signal.Signals = signal.SIGTERM) -> None:
        """
        Start one process of the server, with its output in the log.

        Args:
            arguments: The command line.
            end: The signal that asks it to shut down.
        """
        with self._spawning, (self.directory / "server.log").open("ab") as log:
            if self._closed:
                raise StartError(f"{self.name} was closed while it was starting")
            environment = {**os.environ, **self.environment()}
            self._processes.append(
                Process(arguments, environment=environment, directory=self.directory, log=log, user=self.user, end=end)
            )

    def run(self, arguments: Sequence[str], text: str = "") -> None:
        """
        Run a command that prepares the server, and wait for its end.

        Args:
            arguments: The command line.
            text: Its standard input.

        Raises:
            StartError: If it failed; the text ends with its output.
        """
        done = subprocess.run(
            arguments,
            input=text,
            env={**os.environ, **self.environment()},
            cwd=self.directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=DEADLINE,
            check=False,
            **as_user(self.user),
        )
        if done.returncode:
            raise StartError(f"{self.name}: {Path(arguments[0]).name} failed with {done.returncode}:\n{done.stdout[-3000:]}")

    def start(self) -> None:
        if self._processes and self._processes[-1].exit_code is None:
            return
        self._end_processes(Process.kill)
        self._answered = False
        try:
            if not self._prepared:
                self.prepare()
                self._prepared = True
            self.launch()
            self.wait(self.answers, self.port)
            self._answered = True
        except BaseException:
            self._end_processes(Process.kill)
            if not self._prepared:
                self._remove_directory()
            raise

    def wait(self, ready: Callable[[str, int], bool], port: int) -> None:
        """
        Wait until a process of the server is ready.

        Args:
            ready: What to ask it, by host and port.
            port: The port it is asked on.

        Raises:
            StartError: If a process of the server ended, or the deadline passed.
        """
        deadline = time.monotonic() + DEADLINE
        while not ready("127.0.0.1", port):
            if self._closed:
                raise StartError(f"{self.name} was closed while it was starting")
            ended = [process.exit_code for process in self._processes if process.exit_code is not None]
            if ended:
                raise StartError(f"{self.name} ended with {ended[0]} while it was starting:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise StartError(f"{self.name} does not answer on port {port} after {DEADLINE:.0f} s:\n{self.log_tail()}")
            time.sleep(0.03)

    def _end_processes(self, way: Callable[[Process], None]) -> None:
        # One that is being closed by another thread while it starts is ended by both.
        with self._ending:
            while self._processes:
                way(self._processes[-1])
                self._processes.pop()

    def stop(self) -> None:
        self._end_processes(Process.stop)

    def kill(self) -> None:
        self._end_processes(Process.kill)

    def close(self) -> None:
        with self._spawning:
            self._closed = True
        # Amid its start a server may be slow to hear that it shall stop. Otherwise it gets the time to return what it has taken from
        # the system: a killed PostgreSQL leaves a segment of shared memory.
        self._end_processes(Process.stop if self._answered else Process.kill)
        self._remove_directory()

    def _remove_directory(self) -> None:
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            watch(f"directory {self._directory}")
            self._directory = None

    def pids(self) -> list[int]:
        return [pid for process in self._processes for pid in tree(process.pid) if alive(pid)]

    def log_tail(self, lines: int = 30) -> str:
        if self._directory is None:
            return ""
        try:
            text = (self._directory / "server.log").read_text(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])
