"""
What a store on a server does while the server does not: stopped, silent, and back.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ClassVar

import pytest

from tenancy import RouteSourceError
from tenancy.routes import LiveRoutes
from tenancy.routes.stores import StoreSource, open_store
from tests import services
from tests.routes.stores.contract import eventually, watching

# Seconds: the time-out, and what a busy machine adds.
PATIENCE = 2.6


@contextmanager
def silent_server() -> Iterator[int]:
    """A port that accepts connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield listener.getsockname()[1]


class OutageContract:
    """
    The contract; a subclass names the `service`.
    """

    service: ClassVar[str]

    def test_a_server_that_hangs(self, own_service: Callable[[str], services.Service]) -> None:
        """Connections that are open end with the time-out while it is frozen, and all goes on when it runs again."""
        server = own_service(self.service)
        store, other = open_store(server.address), open_store(server.address)
        store.create()
        other.head()
        with watching(store) as woken:
            for pid in server.pids():
                os.kill(pid, signal.SIGSTOP)
            try:
                for call in (store.snapshot, lambda: other.write([]), store.head):
                    start = time.monotonic()
                    with pytest.raises(RouteSourceError):
                        call()
                    assert time.monotonic() - start < PATIENCE
            finally:
                for pid in server.pids():
                    os.kill(pid, signal.SIGCONT)
            eventually(lambda: _answers(store.head))
            woken.clear()
            before = store.head().version
            assert other.write([]) == before + 1
            assert woken.wait(3.0)

    def test_a_server_that_is_down_and_back(self, own_service: Callable[[str], services.Service]) -> None:
        """A live table keeps what it has, is not fresh after a lease, and is again when the server is back."""
        server = own_service(self.service)
        store = open_store(server.address)
        store.create(1.0)
        live = LiveRoutes(StoreSource(store), interval=0.1)
        try:
            live.wait_synced(5)
            server.stop()
            eventually(lambda: not live.view().fresh(), 4)  # type: ignore[union-attr]
            start = time.monotonic()
            with pytest.raises(RouteSourceError):
                store.head()
            assert time.monotonic() - start < PATIENCE
            assert len(live.table) == 0
            server.start()
            self.restored(store, live)
        finally:
            live.close()

    def restored(self, store: object, live: LiveRoutes) -> None:
        """See that all is well again."""
        eventually(lambda: live.view().fresh(), 5)  # type: ignore[union-attr]


def _answers(call: Callable[[], object]) -> bool:
    try:
        call()
    except RouteSourceError:
        return False
    return True
