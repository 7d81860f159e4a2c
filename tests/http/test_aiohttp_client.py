from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import ClientRequest
from multidict import CIMultiDict, CIMultiDictProxy
from opentelemetry.instrumentation.aiohttp_client import AioHttpClientInstrumentor
from opentelemetry.sdk.trace import TracerProvider

import tenancy
from tenancy.http import aiohttp_client as adapter
from tenancy.http.aiohttp_client import TenancyClientRequest
from tests.contract import CROWD
from tests.http.servers import header, serving

OURS = "sd-routing-key"


@pytest.fixture(autouse=True)
def _uninstrumented() -> Iterator[None]:
    yield
    adapter.uninstrument()


@pytest.fixture(params=["ours alone", "theirs first", "ours first"])
def instrumented(request: pytest.FixtureRequest) -> Iterator[None]:
    theirs = AioHttpClientInstrumentor()
    if request.param == "theirs first":
        theirs.instrument(tracer_provider=TracerProvider())
    adapter.instrument()
    if request.param == "ours first":
        theirs.instrument(tracer_provider=TracerProvider())
    yield
    if request.param != "ours alone":
        theirs.uninstrument()


async def fetch(url: str, method: str = "GET", *, session: aiohttp.ClientSession | None = None, **options: Any) -> dict[str, Any]:
    if session is None:
        async with aiohttp.ClientSession() as own:
            return await fetch(url, method, session=own, **options)
    async with session.request(method, url, **options) as response:
        answer: dict[str, Any] = await response.json(content_type=None)
        return answer


def baggage(answer: dict[str, Any]) -> list[str]:
    return [value for name, value in answer["headers"] if name == "baggage"]


def at(host: str, url: str) -> str:
    return url.replace("127.0.0.1", host)


async def test_the_members_of_others_keep_their_bytes(recorder_url: str) -> None:
    """All lines, of the session and of the request, become one header, ours first."""
    adapter.instrument()
    headers = CIMultiDict([("X-One", "1"), ("Baggage", "a=%41;p=1 , b=b"), ("Baggage", "sd-routing-key=pr-7,c=\xfc")])
    with tenancy.scope("pr-42"):
        answer = await fetch(recorder_url, headers=headers)
    assert baggage(answer) == ["sd-routing-key=pr-42,a=%41;p=1 , b=b,c=\xc3\xbc"]  # aiohttp sends UTF-8
    async with aiohttp.ClientSession(headers={"baggage": "sd-routing-key=stale,mine=1"}) as session:
        with tenancy.scope("pr-42"):
            assert baggage(await fetch(recorder_url, session=session)) == ["sd-routing-key=pr-42,mine=1"]
            answer = await fetch(recorder_url, session=session, headers=[("BAGGAGE", "b=2"), ("BAGGAGE", "c=3")])
        assert baggage(answer) == ["sd-routing-key=pr-42,b=2,c=3"]
        assert baggage(await fetch(recorder_url, session=session)) == ["sd-routing-key=stale,mine=1"]


@pytest.mark.usefixtures("names", "instrumented")
@pytest.mark.parametrize("host", ["orders", "example.com"])
async def test_the_callers_headers_are_not_changed(recorder_url: str, host: str) -> None:
    """Of whatever kind they are; the response shows what was sent."""
    pairs = [("Baggage", "a=1"), ("baggage", "sd-routing-key=pr-7"), ("X-One", "1")]
    shapes: list[Any] = [pairs, dict(pairs), CIMultiDict(pairs), CIMultiDictProxy(CIMultiDict(pairs))]
    async with aiohttp.ClientSession(headers=CIMultiDict(pairs)) as session:
        default = list(session.headers.items())
        for headers in shapes:
            given = list(headers) if headers is pairs else list(headers.items())
            with tenancy.scope("pr-42"):
                async with session.get(at(host, recorder_url), headers=headers) as response:
                    sent = response.request_info.headers.getall("baggage", [])
                    assert baggage(await response.json(content_type=None)) == sent
            assert (OURS in "".join(sent)) is (host == "orders")
            assert list(headers if headers is pairs else headers.items()) == given
        assert list(session.headers.items()) == default


async def test_without_a_key_the_headers_are_the_same_object(recorder_url: str) -> None:
    """Nothing is copied where there is nothing to carry."""
    seen: list[Any] = []

    class Looking(TenancyClientRequest):
        async def send(self, conn: Any) -> Any:
            before = self.headers
            response = await super().send(conn)
            seen.append(response.request_info.headers == before and self.headers is before)
            return response

    async with aiohttp.ClientSession(request_class=Looking) as session:
        await fetch(recorder_url, session=session, headers={"baggage": "a=1"})
        with tenancy.scope("pr-42"):
            await fetch(recorder_url, session=session, headers={"baggage": "a=1"})
    assert seen == [True, False]


@pytest.mark.usefixtures("names", "instrumented")
@pytest.mark.parametrize("host", ["orders", "example.com"])
async def test_bodies_are_made_under_the_callers_key(recorder_url: str, host: str) -> None:
    """Code that makes a body while it is sent has the key, also where the host must not see it; files and forms are sent whole."""
    keys: list[str | None] = []

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            await asyncio.sleep(0)
            keys.append(tenancy.routing_key())
            yield b"1234"

    class Reader(io.BytesIO):
        def read(self, *args: Any) -> bytes:
            keys.append(tenancy.routing_key())
            return super().read(*args)

        read1 = read

    form = aiohttp.FormData()
    form.add_field("f", io.BytesIO(b"x" * 1000), filename="f")
    url = at(host, recorder_url)
    with tenancy.scope("pr-42"):
        for data in (chunks(), Reader(b"x" * 12), io.BytesIO(b"x" * 12), b"x" * 12, "x" * 12):
            assert (await fetch(url, "POST", data=data))["size"] == 12, data
        assert (await fetch(url, "POST", data=form))["size"] > 1000
        answer = await fetch(url, "POST", json={"a": 1})
    assert answer["size"] == 8
    assert [entry for entry in baggage(answer) if OURS in entry] == (["sd-routing-key=pr-42"] if host == "orders" else [])
    assert keys[:3] == ["pr-42"] * 3
    if aiohttp.__version__ >= "3.12":  # older ones read files in an executor, which copies no context
        assert len(keys) > 3


@pytest.mark.usefixtures("names", "instrumented")
async def test_a_body_survives_a_redirect(recorder_url: str) -> None:
    """What is sent again to the next host is the same."""
    away = at("example.com", recorder_url) + "/to307?" + at("orders", recorder_url)
    with tenancy.scope("pr-42"):
        async with aiohttp.ClientSession() as session, session.post(recorder_url + "/to307?" + away, data=b"x" * 12) as response:
            assert [hop.headers["x-seen-baggage"] for hop in response.history] == ["sd-routing-key=pr-42", "-"]
            answer = await response.json(content_type=None)
    assert (answer["size"], baggage(answer)) == (12, ["sd-routing-key=pr-42"])


@pytest.mark.usefixtures("names", "instrumented")
async def test_websockets() -> None:
    """The request that opens one is like any other."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": header(scope, b"baggage") or "-"})
        await send({"type": "websocket.close"})

    with serving(app, lifespan="off") as url:
        async with aiohttp.ClientSession() as session:
            for key, host, told in (
                ("pr-42", "orders", "sd-routing-key=pr-42"),
                ("pr-42", "example.com", "-"),
                (None, "orders", "-"),
            ):
                with tenancy.scope(key):
                    async with session.ws_connect(at(host, url)) as websocket:
                        assert await websocket.receive_str() == told


@pytest.mark.usefixtures("names", "instrumented")
async def test_a_shared_session_mixes_nothing(recorder_url: str) -> None:
    """Of 200 tasks with one session and few connections, each sends its own key."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=20)) as session:

        async def sent(number: int) -> list[str]:
            with tenancy.scope(f"k{number}" if number % 4 else None):
                url = at("example.com" if number % 3 == 0 else "orders", recorder_url)
                return baggage(await fetch(url, session=session, headers={"X-Number": str(number)}))

        answers = await asyncio.gather(*map(sent, range(CROWD)))
    assert answers == [[f"sd-routing-key=k{number}"] if number % 4 and number % 3 else [] for number in range(CROWD)]


async def test_through_a_unix_socket(tmp_path: Path) -> None:
    """The host of the URL is judged there as well."""
    adapter.instrument()
    seen: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        writer.close()

    path = str(tmp_path / "socket")
    server = await asyncio.start_unix_server(answer, path)
    async with server, aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as session:
        with tenancy.scope("pr-42"):
            await fetch("http://docker/info", session=session)
            await fetch("http://example.com/info", session=session)
    assert [OURS.encode() in one for one in seen] == [True, False]


@pytest.mark.usefixtures("names")
async def test_what_the_caller_writes_for_a_proxy() -> None:
    """A CONNECT does not name the key even where the caller's own headers for the proxy do; all else in them stays."""
    adapter.instrument()
    seen: list[bytes] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1")
    proxy = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        with tenancy.scope("pr-42"), pytest.raises(aiohttp.ClientHttpProxyError):
            await fetch("https://orders/", proxy=proxy, proxy_headers={"Baggage": "a=1,sd-routing-key=pr-42", "X-Mine": "1"})
    assert seen[0].startswith(b"CONNECT orders:443")
    assert OURS.encode() not in seen[0]
    assert b"a=1\r\n" in seen[0]
    assert b"X-Mine: 1\r\n" in seen[0]


@pytest.mark.skipif(not hasattr(aiohttp, "ClientMiddlewareType"), reason="client middleware came with aiohttp 3.12")
@pytest.mark.usefixtures("names")
async def test_client_middleware(recorder_url: str) -> None:
    """It sees the caller's headers, may send a request again, and what it adds itself is checked."""
    adapter.instrument()
    seen: list[list[str]] = []

    async def twice(request: ClientRequest, handler: Any) -> Any:
        for _ in range(2):
            response = await handler(request)
            seen.append(request.headers.getall("baggage", []))
            request.headers["Baggage"] = "sd-routing-key=pr-42,b=2"
            await response.read()
        return await handler(request)

    async with aiohttp.ClientSession(middlewares=[twice]) as session:  # type: ignore[call-arg, unused-ignore]
        with tenancy.scope("pr-42"):
            answer = await fetch(at("example.com", recorder_url), session=session, headers={"Baggage": "sd-routing-key=pr-7,a=1"})
    assert seen == [["sd-routing-key=pr-7,a=1"], ["sd-routing-key=pr-42,b=2"]]
    assert baggage(answer) == ["b=2"]


async def test_the_short_way(recorder_url: str) -> None:
    """`aiohttp.request` is covered like a session."""
    adapter.instrument()
    with tenancy.scope("pr-42"):
        async with aiohttp.request("GET", recorder_url) as response:
            assert baggage(await response.json(content_type=None)) == ["sd-routing-key=pr-42"]


@pytest.mark.usefixtures("instrumented")
async def test_the_context_is_restored(caplog: pytest.LogCaptureFixture) -> None:
    """After a time-out and a cancelled request the key is current as before."""

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    silent = await asyncio.start_server(wait, "127.0.0.1")
    url = f"http://127.0.0.1:{silent.sockets[0].getsockname()[1]}"
    with tenancy.scope("pr-42"):
        with pytest.raises(asyncio.TimeoutError):
            await fetch(url, timeout=aiohttp.ClientTimeout(total=0.05))
        assert tenancy.routing_key() == "pr-42"
        task = asyncio.create_task(fetch(url))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert tenancy.routing_key() == "pr-42"
    assert tenancy.routing_key() is None
    assert "detach" not in caplog.text
    silent.close()


async def test_streamed_responses(recorder_url: str) -> None:
    """A response that is read bit by bit is the same."""
    adapter.instrument()
    with tenancy.scope("pr-42"):
        async with aiohttp.ClientSession() as session, session.get(recorder_url) as response:
            assert "pr-42" in json.dumps(json.loads(b"".join([chunk async for chunk in response.content.iter_chunked(7)])))


async def test_wrapped_and_instrumented(recorder_url: str) -> None:
    """Doing both is the same as doing one."""
    adapter.instrument()
    async with aiohttp.ClientSession(request_class=TenancyClientRequest) as session:
        with tenancy.scope("pr-42"):
            assert baggage(await fetch(recorder_url, session=session, headers={"baggage": "a=1"})) == ["sd-routing-key=pr-42,a=1"]


def test_a_mistake_in_the_trusted_hosts_shows_at_the_start() -> None:
    """It raises where the adapter is switched on, and not in the first request that has a key."""
    tenancy.configure(trusted_hosts="https://example.com")
    with pytest.raises(tenancy.ConfigurationError, match="trusted_hosts"):
        adapter.instrument()


async def test_switched_off_nothing_is_patched(recorder_url: str) -> None:
    """The attribute is the original, and the request class is like aiohttp's own."""
    original = ClientRequest.send
    tenancy.configure(enabled=False)
    adapter.instrument()
    assert ClientRequest.send is original
    async with aiohttp.ClientSession(request_class=TenancyClientRequest) as session:
        with tenancy.scope("pr-42"):
            assert baggage(await fetch(recorder_url, session=session)) == []


async def test_it_can_be_undone(recorder_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After uninstrument() the attribute is the original; beneath somebody else's patch ours does nothing any more."""
    original = ClientRequest.send
    adapter.instrument()
    adapter.instrument()
    assert ClientRequest.send is not original
    adapter.uninstrument()
    adapter.uninstrument()
    assert ClientRequest.send is original
    adapter.instrument()
    ours = ClientRequest.send
    monkeypatch.setattr(ClientRequest, "send", lambda self, conn: ours(self, conn))
    adapter.uninstrument()
    with tenancy.scope("pr-42"):
        assert baggage(await fetch(recorder_url)) == []
