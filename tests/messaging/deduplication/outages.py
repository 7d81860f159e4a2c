"""
What a deduplication on a server does while the server does not: silent, frozen, gone and back.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import ClassVar

import pytest

from tenancy.errors import DeduplicationError
from tenancy.messaging.deduplication import Deduplication, open_deduplication
from tests import services
from tests.messaging.deduplication.contract import SCOPE
from tests.routes.stores.contract import eventually
from tests.routes.stores.outages import PATIENCE, silent_server


class OutageContract:
    """
    The contract; a subclass names the `service`.
    """

    service: ClassVar[str]

    async def test_a_server_that_hangs(self, own_service: Callable[[str], services.Service]) -> None:
        """Every call ends with the time-out while it is frozen, and a claim from before is settled when it runs again."""
        server = own_service(self.service)
        handle = open_deduplication(server.address)
        claims = [handle.claim(SCOPE, "m-1"), await handle.aclaim(SCOPE, "m-2")]
        for pid in server.pids():
            os.kill(pid, signal.SIGSTOP)
        try:
            start = time.monotonic()
            with pytest.raises(DeduplicationError):
                handle.claim(SCOPE, "m-3")
            assert time.monotonic() - start < PATIENCE
            start = time.monotonic()
            with pytest.raises(DeduplicationError):
                await handle.adone(claims[1])
            assert time.monotonic() - start < PATIENCE
        finally:
            for pid in server.pids():
                os.kill(pid, signal.SIGCONT)
        eventually(lambda: _settled(handle, claims[0].message_id))
        assert handle.done(claims[0]) is True
        assert await handle.adone(claims[1]) is True
        await handle.aclose()
        handle.close()

    async def test_a_server_that_is_down_and_back(self, own_service: Callable[[str], services.Service]) -> None:
        """Calls fail at once, and the first one after it is back succeeds."""
        server = own_service(self.service)
        handle = open_deduplication(server.address)
        assert handle.claim(SCOPE, "m-1").ours
        assert (await handle.aclaim(SCOPE, "m-1")).busy
        server.stop()
        start = time.monotonic()
        with pytest.raises(DeduplicationError, match=r"refused|connecting to"):
            handle.claim(SCOPE, "m-2")
        with pytest.raises(DeduplicationError, match=r"refused|connecting to"):
            await handle.aclaim(SCOPE, "m-2")
        assert time.monotonic() - start < PATIENCE
        server.start()
        assert handle.claim(SCOPE, "m-3").ours
        assert (await handle.aclaim(SCOPE, "m-4")).ours
        server.stop()
        server.start()
        assert handle.claim(SCOPE, "m-5").ours
        assert (await handle.aclaim(SCOPE, "m-6")).ours
        await handle.aclose()
        handle.close()

    async def test_a_silent_server_is_given_up(self) -> None:
        """Something that listens and never says a word holds nobody up for longer than the time-out; passwords are not told."""
        with silent_server() as port:
            handle = open_deduplication(f"{self.service}://someone:secret@127.0.0.1:{port}/0")
            assert "secret" not in handle.name
            start = time.monotonic()
            with pytest.raises(DeduplicationError) as caught:
                handle.claim(SCOPE, "m-1")
            assert time.monotonic() - start < PATIENCE
            assert "secret" not in str(caught.value)
            start = time.monotonic()
            with pytest.raises(DeduplicationError) as caught:
                await handle.aclaim(SCOPE, "m-1")
            assert time.monotonic() - start < PATIENCE
            assert "secret" not in str(caught.value)
            await handle.aclose()
            handle.close()


def _settled(handle: Deduplication, name: str) -> bool:
    try:
        return handle.claim(SCOPE, name).busy
    except DeduplicationError:
        return False
