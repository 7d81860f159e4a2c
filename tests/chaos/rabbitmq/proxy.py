"""
Proxies on 127.0.0.1, one for each process, by which its connections to the broker are cut: what the broker answers is lost on the way.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import defaultdict
from urllib.parse import urlsplit

__all__ = ["Proxies"]


class Proxies:
    """
    The proxies of a run.

    Args:
        url: URL of the broker.
    """

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url)
        self._loop = asyncio.new_event_loop()
        self._ports: dict[str, int] = {}
        self._links: dict[str, set[_Link]] = defaultdict(set)
        self._servers: list[asyncio.Server] = []
        self._thread = threading.Thread(target=self._loop.run_forever, name="chaos-proxies", daemon=True)
        self._thread.start()

    def url(self, name: str) -> str:
        """
        Return the URL by which a process reaches the broker.
        """
        if name not in self._ports:
            self._ports[name] = self._run(self._serve(name))
        credentials = self._parts.netloc.rpartition("@")[0]
        return self._parts._replace(netloc=f"{credentials}@127.0.0.1:{self._ports[name]}").geturl()

    def cut(self, name: str, deaf: float = 0.03) -> int:
        """
        Cut all connections of a process, after so many seconds in which the broker hears it, but not the other way round.

        Returns:
            How many there were.
        """
        return self._run(self._cut(name, deaf))

    def close(self) -> None:
        """
        Close all of them.
        """
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def _run(self, step):  # type: ignore[no-untyped-def]
        return asyncio.run_coroutine_threadsafe(step, self._loop).result(30)

    async def _serve(self, name: str) -> int:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                there = await asyncio.open_connection(self._parts.hostname, self._parts.port)
            except OSError:
                writer.close()
                return
            link = _Link((reader, writer), there)
            self._links[name].add(link)
            try:
                await link.relay()
            finally:
                self._links[name].discard(link)

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        self._servers.append(server)
        return server.sockets[0].getsockname()[1]

    async def _cut(self, name: str, deaf: float) -> int:
        links = list(self._links[name])
        for link in links:
            link.deaf = True
        await asyncio.sleep(deaf)
        for link in links:
            link.abort()
        return len(links)

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        for links in self._links.values():
            for link in list(links):
                link.abort()
        await asyncio.sleep(0)


class _Link:
    """
    One connection.
    """

    def __init__(
        self,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        broker: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self._client = client
        self._broker = broker
        #: Whether what the broker says is not passed on any more.
        self.deaf = False

    async def relay(self) -> None:
        """
        Pass on what is said, until either side ends.
        """
        ways = (self._pass(self._client[0], self._broker[1], up=True), self._pass(self._broker[0], self._client[1], up=False))
        tasks = [asyncio.ensure_future(way) for way in ways]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        for _, writer in (self._client, self._broker):
            with contextlib.suppress(OSError, RuntimeError):
                writer.close()

    def abort(self) -> None:
        """
        End it at once.
        """
        for _, writer in (self._client, self._broker):
            writer.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if up or not self.deaf:
                    writer.write(data)
                    await writer.drain()
