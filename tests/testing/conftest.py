from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import tenancy
from tests.http.servers import recorder, serving


@pytest.fixture(scope="session")
def peer() -> Iterator[str]:
    """The URL of a server that answers everything, and redirects `/to?<url>`."""
    with serving(recorder, lifespan="off") as url:
        yield url


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every name leads to this machine."""
    original: Callable[..., Any] = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *args, **kwargs: original("127.0.0.1", *args, **kwargs))


@pytest.fixture
def instrument() -> Iterator[Callable[..., Any]]:
    """Switches libraries on for one test."""
    yield tenancy.instrument
    tenancy.uninstrument()
