"""
Real servers for the tests, the demo and the chaos runs: found, started, installed or run in Docker, in this order.

    with services.start("kafka") as kafka:
        Producer({"bootstrap.servers": kafka.address})
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

from . import install
from .base import Given, Missing, Service, StartError, Unavailable, flag
from .docker import Container
from .kafka import Kafka
from .kafka import mock as mock_kafka
from .local import Local
from .mariadb import MariaDB
from .pgbouncer import PgBouncer
from .postgresql import PostgreSQL
from .rabbitmq import RabbitMQ
from .redis import Redis

__all__ = [
    "NAMES",
    "Running",
    "Service",
    "StartError",
    "Unavailable",
    "find",
    "flag",
    "mock_kafka",
    "start",
    "start_all",
    "variable",
]

T = TypeVar("T")

_KINDS: dict[str, type[Local]] = {kind.name: kind for kind in (Kafka, RabbitMQ, PostgreSQL, PgBouncer, MariaDB, Redis)}

NAMES = tuple(_KINDS)


def variable(name: str) -> str:
    """
    Return the name of the environment variable that gives a service's address.

    Args:
        name: One of `NAMES`.
    """
    return _KINDS[name].variable


def find(name: str, *, own: bool = False) -> Service:
    """
    Find a service without starting it: by address, as a local binary, by installing it, or in Docker.

    Args:
        name: One of `NAMES`.
        own: Whether it must be a server of our own, that can be stopped and killed, even where an address is given.

    Raises:
        Unavailable: If no way is open; the text says what was tried and what to do.
    """
    kind = _KINDS[name]
    address = os.environ.get(kind.variable, "").strip()
    if address and not own:
        return Given(name, kind.variable, address, _endpoint(address))
    ways: tuple[Callable[[], Service], ...] = (kind.locate, lambda: _installed(kind), lambda: Container.of(kind))
    tried = [f"{kind.variable} is not {'enough' if address else 'set'}"]
    for way in ways:
        try:
            return way()
        except Missing as reason:
            if str(reason) not in tried:
                tried.append(str(reason))
    wanted = " and ".join(kind.packages).replace("|", " or ")
    advice = f"set {kind.variable} to {kind.hint}, or install {wanted} ({install.VARIABLE}=1 lets root's tests do it)"
    raise Unavailable(f"no {name}: {'; '.join(tried)}. To have it, {advice}")


def start(name: str, *, own: bool = False) -> Service:
    """
    Find and start a service; close it, or use it as a context manager.

    Args:
        name: One of `NAMES`.
        own: Whether it must be a server of our own, that can be stopped and killed, even where an address is given.

    Raises:
        Unavailable: If it cannot be had on this machine.
        StartError: If it is here, but does not start.
    """
    service = find(name, own=own)
    try:
        service.start()
    except BaseException:
        service.close()
        raise
    return service


class Running(dict[str, Service]):
    """
    Started services by name; as a context manager it closes them.
    """

    def close(self) -> None:
        """
        Close all of them, at the same time.
        """
        _at_once(lambda service: service.close(), self.values())

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def start_all(names: Iterable[str]) -> Running:
    """
    Find and start several services at the same time.

    Args:
        names: Some of `NAMES`.

    Raises:
        Unavailable: If one cannot be had on this machine.
        StartError: If one is here, but does not start. In both cases none is left running.
    """
    names = list(dict.fromkeys(names))
    running = Running(zip(names, _at_once(find, names), strict=True))
    try:
        # On Ctrl-C this thread leaves at once and closes the services, at which the threads that start them give up.
        _at_once(lambda service: service.start(), running.values(), on_error=running.close)
    except BaseException:
        running.close()
        raise
    return running


def _at_once(work: Callable[..., T], items: Iterable[object], on_error: Callable[[], None] | None = None) -> list[T]:
    items = list(items)
    with ThreadPoolExecutor(max(1, len(items))) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
            for future in futures:
                if future.done():
                    future.result()
            return [future.result() for future in futures]
        except BaseException:
            if on_error is not None:
                on_error()
            raise


def _installed(kind: type[Local]) -> Service:
    install.packages(kind.packages)
    return kind.locate()


def _endpoint(address: str) -> tuple[str, int] | None:
    """
    Return the first host and port in a URL, a DSN or a list of bootstrap servers; None where they are written in no form known here.
    """
    pairs = dict(re.findall(r"(\w+)=(\S+)", address)) if "://" not in address else {}
    if "host" in pairs:
        return (pairs["host"], int(pairs.get("port", 5432))) if not pairs["host"].startswith("/") else None
    plain = re.sub(r"^\w+[+\w]*://", "", address).rpartition("@")[2]
    found = re.match(r"(\[[0-9a-fA-F:]+\]|[^:/,?\s=]+):(\d+)", plain)
    return (found[1].strip("[]"), int(found[2])) if found else None
