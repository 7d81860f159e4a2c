from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tenancy.observe import _logging
from tenancy.routes import live
from tests.http.servers import recorder, serving


@pytest.fixture(autouse=True)
def _own_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test starts with no warning given and no route table open (the settings are reset for all tests)."""
    monkeypatch.setattr(_logging, "_warned", set())
    monkeypatch.setattr(live, "_opened", {})


@pytest.fixture(scope="session")
def recorder_url() -> Iterator[str]:
    with serving(recorder, lifespan="off") as url:
        yield url


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every name leads to this machine, so that `http://example.com:<port>/` reaches a test's own server."""
    original: Callable[..., Any] = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        return original("127.0.0.1", *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
