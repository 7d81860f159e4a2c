from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.http.servers import recorder, serving


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
