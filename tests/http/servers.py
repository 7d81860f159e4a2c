"""What the HTTP tests share: real servers in threads, a handler that runs a test's own code, a server that tells what it received."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn

import tenancy
from tests.contract import Headers, PropagationContract, Rejected

# One for all clients: loading the certificates takes longer than most tests.
SSL_CONTEXT = ssl.create_default_context()


class Work:
    """Code of a test, and what came of it, by the name that a request carries in `x-body`."""

    def __init__(self) -> None:
        self.bodies: dict[str, Callable[[], Any]] = {}
        self.results: dict[str, Any] = {}

    def add(self, body: Callable[[], Any]) -> str:
        name = uuid.uuid4().hex
        self.bodies[name] = body
        return name

    def run(self, name: str) -> None:
        self.results[name] = self.bodies.pop(name)()

    def result(self, name: str) -> Any:
        return self.results.pop(name, None)


@contextmanager
def serving(app: Any, *, lifespan: str = "auto") -> Iterator[str]:
    """Run an application under uvicorn on a free port of 127.0.0.1; gives its address."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="critical", lifespan=lifespan, ws="websockets-sansio", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)

    def run() -> None:
        try:
            server.run(sockets=[listener])
        except SystemExit:  # uvicorn's way of saying that the start failed
            pass

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    end = time.monotonic() + 20
    while not server.started:
        if not thread.is_alive() or time.monotonic() > end:
            raise RuntimeError("the server did not start")
        time.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


def plain_client(**options: Any) -> httpx.AsyncClient:
    """An HTTP client that knows nothing of tenancy."""
    return httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(verify=SSL_CONTEXT), timeout=30, **options)


def header(scope: dict[str, Any], name: bytes) -> str | None:
    return next((value.decode("latin-1") for found, value in scope["headers"] if found == name), None)


async def respond(send: Any, status: int = 200, headers: list[tuple[bytes, bytes]] | None = None, body: bytes = b"ok") -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*(headers or []), length]})
    await send({"type": "http.response.body", "body": body})


async def recorder(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answers with the headers it received and the body's size; `/to?<url>` redirects there."""
    if scope["type"] != "http":
        raise AssertionError(scope["type"])
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    if scope["path"] in ("/to", "/to307"):
        status = 302 if scope["path"] == "/to" else 307
        headers = [(b"location", scope["query_string"]), (b"x-seen-baggage", (header(scope, b"baggage") or "-").encode("latin-1"))]
        await respond(send, status, headers, b"")
        return
    seen = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
    await respond(send, body=json.dumps({"headers": seen, "size": size}).encode())


class SentOverHTTP(PropagationContract):
    """The sending half for server adapters: the core's `inject`, with nothing between it and the wire."""

    async def send(self) -> Headers:
        return tenancy.inject([("accept", "*/*")])


class ServerContract(SentOverHTTP):
    """The contract for an application behind a real server; a subclass builds the application."""

    malformed = "rejected"
    raises = False
    path = "/"
    work: Work
    url: str

    async def receive(self, headers: Headers, body: Callable[[], Any] = tenancy.routing_key) -> Any:
        name = self.work.add(body)
        async with plain_client() as client:
            try:
                response = await client.get(self.url + self.path, headers=[*headers, ("x-body", name)])
            except httpx.RemoteProtocolError:  # a stream that ended with its handler's exception
                return None
        if response.status_code == 400:
            raise Rejected(response.text)
        return self.work.result(name)


async def through(app: Any, headers: Any = (), path: str = "/") -> httpx.Response:
    """One request to an application in this process."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as client:
        return await client.get(path, headers=headers)


def get(app: Any, path: str = "/", headers: Any = ()) -> httpx.Response:
    """The same, for a test that is no coroutine."""
    return asyncio.run(through(app, headers, path))
