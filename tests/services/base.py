"""
What all services share: the errors, the free ports, and the face that every service shows.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import ClassVar, TypeVar

__all__ = ["DEADLINE", "Given", "Image", "Missing", "Service", "StartError", "Unavailable", "ask", "connects", "flag", "free_port"]

# Seconds until a server that was started must answer; well below the 120 s that a test may take.
DEADLINE = 90.0

# Seconds in which a server given by address must accept a connection.
PATIENCE = 10.0

S = TypeVar("S", bound="Service")


class Unavailable(RuntimeError):
    """
    No way to get the service is open on this machine: tests of it are skipped.
    """


class StartError(RuntimeError):
    """
    The service is here, but does not start or does not answer: tests of it fail.
    """


class Missing(Exception):
    """
    One way of getting a service is not open; the text says why.
    """


def flag(variable: str) -> bool:
    """
    Tell whether an environment variable says yes.

    Args:
        variable: Its name.
    """
    return os.environ.get(variable, "").strip().lower() in {"1", "true", "yes", "on"}


class _Ports:
    """
    Hands out ports, no port twice, outside the range that the kernel takes for outgoing connections.

    A port from that range can be taken, while its server is down for a restart, by any client's outgoing connection; a client that
    keeps trying to reach the port can even be connected to itself.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next: int | None = None

    def _range(self) -> tuple[int, int]:
        try:
            first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
        except (OSError, ValueError):
            first, last = 49152, 65535
        if first > 20000:
            return 14000, first
        return (last + 1, 65536) if last < 64000 else (14000, 32768)

    def take(self) -> int:
        with self._lock:
            low, high = self._range()
            if self._next is None:
                # Runs that start at the same time begin at different places, so they do not race for the same port.
                self._next = os.getpid() * 16
            for _ in range(high - low):
                port = low + self._next % (high - low)
                self._next += 1
                with socket.socket() as probe:
                    try:
                        probe.bind(("127.0.0.1", port))
                    except OSError:
                        continue
                return port
        raise StartError(f"no free port between {low} and {high} on 127.0.0.1")


free_port: Callable[[], int] = _Ports().take


def connects(host: str, port: int) -> bool:
    """
    Tell whether something accepts TCP connections at an address.

    Args:
        host: Name or address of the host.
        port: The TCP port.
    """
    try:
        with socket.create_connection((host, port), timeout=2):
            return True
    except OSError:
        return False


def ask(host: str, port: int, question: bytes, size: int) -> bytes:
    """
    Send a few bytes and read the first bytes of the answer, to see whether the right kind of server is ready.

    Args:
        host: Name or address of the host.
        port: The TCP port.
        question: What to send.
        size: How many bytes of the answer to wait for.

    Returns:
        the answer, shorter where the server closed the connection, and empty where it could not be reached.
    """
    answer = b""
    try:
        with socket.create_connection((host, port), timeout=2) as connection:
            connection.sendall(question)
            while len(answer) < size and (part := connection.recv(size - len(answer))):
                answer += part
    except OSError:
        pass
    return answer


@dataclass(frozen=True)
class Image:
    """
    A container image that can stand in for a local binary.

    Args:
        name: Name and tag.
        port: The port that the server listens on inside the container.
        environment: Variables of the container; `{port}` becomes the published port.
        arguments: Arguments after the image's name.
    """

    name: str
    port: int
    environment: dict[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()


class Service(ABC):
    """
    A running server, or one that can be started: the same face wherever it comes from.

    It can be stopped or killed and started again, at the same address and with the same data, until it is closed. As a context
    manager it starts (if it is not running yet) and closes.
    """

    name: str
    address: str
    origin: ClassVar[str]

    @abstractmethod
    def start(self) -> None:
        """
        Start the server and return when it answers; nothing happens if it is running.

        Raises:
            StartError: If it ended early or did not answer in time; the text ends with the last lines of its log.
        """

    @abstractmethod
    def stop(self) -> None:
        """
        Shut the server down in order; its data stays.
        """

    @abstractmethod
    def kill(self) -> None:
        """
        End the server at once, as a crash would; its data stays as it is.
        """

    @abstractmethod
    def close(self) -> None:
        """
        Stop the server and remove its data; for good, and as often as one likes.
        """

    def pids(self) -> list[int]:
        """
        List the processes of the server, as far as they run on this machine.
        """
        return []

    def log_tail(self, lines: int = 30) -> str:
        """
        Give the last lines of the server's log.

        Args:
            lines: How many.
        """
        return ""

    def __enter__(self: S) -> S:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{self.name} ({self.origin}) at {self.address}>"


class Given(Service):
    """
    A server that somebody else runs, known by its address: used, never stopped.

    Args:
        name: Name of the service.
        variable: The environment variable that gave the address, for messages.
        address: The address as given.
        endpoint: Host and port in it, or None where it is written in a form we do not read.
    """

    origin = "environment"

    def __init__(self, name: str, variable: str, address: str, endpoint: tuple[str, int] | None) -> None:
        self.name = name
        self.address = address
        self._variable = variable
        self._endpoint = endpoint

    def start(self) -> None:
        if self._endpoint is None:
            return
        deadline = time.monotonic() + PATIENCE
        while not connects(*self._endpoint):
            if time.monotonic() > deadline:
                host, port = self._endpoint
                raise StartError(f"{self._variable} is set, but nothing answers at {host}:{port}: start that server, or unset it")
            time.sleep(0.2)

    def stop(self) -> None:
        raise RuntimeError(f"{self.name} was given by {self._variable} and is not ours to stop")

    def kill(self) -> None:
        raise RuntimeError(f"{self.name} was given by {self._variable} and is not ours to kill")

    def close(self) -> None:
        return
