from __future__ import annotations

import io
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import requests
import urllib3
from opentelemetry.instrumentation.urllib3 import URLLib3Instrumentor
from opentelemetry.sdk.trace import TracerProvider
from urllib3 import HTTPConnectionPool, Retry
from urllib3._collections import HTTPHeaderDict

import tenancy
from tenancy.http import requests as requests_adapter
from tenancy.http import urllib3 as adapter
from tenancy.http.urllib3 import TenancyPoolManager, TenancyProxyManager
from tests.contract import CROWD
from tests.http.servers import header, respond, serving

OURS = "sd-routing-key"


@pytest.fixture(autouse=True)
def _uninstrumented() -> Iterator[None]:
    yield
    adapter.uninstrument()
    requests_adapter.uninstrument()


@pytest.fixture(params=["ours alone", "theirs first", "ours first"])
def instrumented(request: pytest.FixtureRequest) -> Iterator[None]:
    theirs = URLLib3Instrumentor()
    if request.param == "theirs first":
        theirs.instrument(tracer_provider=TracerProvider())
    adapter.instrument()
    if request.param == "ours first":
        theirs.instrument(tracer_provider=TracerProvider())
    yield
    if request.param != "ours alone":
        theirs.uninstrument()


def fetch(url: str, method: str = "GET", *, manager: Any = None, **options: Any) -> dict[str, Any]:
    response = (manager or urllib3.PoolManager()).request(method, url, **options)
    answer: dict[str, Any] = json.loads(response.data)
    return answer


def baggage(answer: dict[str, Any]) -> list[str]:
    return [value for name, value in answer["headers"] if name == "baggage"]


def at(host: str, url: str) -> str:
    return url.replace("127.0.0.1", host)


def pool_at(url: str, **options: Any) -> HTTPConnectionPool:
    pool = urllib3.connection_from_url(url, **options)
    assert isinstance(pool, HTTPConnectionPool)
    return pool


@contextmanager
def listening(answers: int) -> Iterator[tuple[str, list[bytes]]]:
    """A server that writes down what it receives, and says yes."""
    seen: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        for _ in range(answers):
            connection, _ = listener.accept()
            with connection:
                seen.append(connection.recv(65536))
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}", seen
    thread.join(10)
    listener.close()


def test_the_members_of_others_keep_their_bytes(recorder_url: str) -> None:
    """All lines become one header, ours first, whether they are text or bytes."""
    adapter.instrument()
    headers = HTTPHeaderDict()
    for name, value in (("X-One", "1"), ("Baggage", "a=%41;p=1 , b=b"), ("bAGGAGE", "sd-routing-key=pr-7,c=\xfc")):
        headers.add(name, value)
    with tenancy.scope("pr-42"):
        assert baggage(fetch(recorder_url, headers=headers)) == ["sd-routing-key=pr-42,a=%41;p=1 , b=b,c=\xfc"]
        assert baggage(fetch(recorder_url, headers={"BAGGAGE": b"a=\xc3\xbc,sd-routing-key=pr-7"})) == [
            "sd-routing-key=pr-42,a=\xc3\xbc"
        ]
        assert baggage(fetch(recorder_url, headers={b"Baggage": b"a=1,sd-routing-key=pr-7"})) == ["sd-routing-key=pr-42,a=1"]


@pytest.mark.usefixtures("names", "instrumented")
@pytest.mark.parametrize("host", ["orders", "example.com"])
def test_the_callers_headers_are_not_changed(recorder_url: str, host: str) -> None:
    """Those of a request, which may be used again for another key, and those of a manager and a pool."""
    pairs = [("Baggage", "a=1,sd-routing-key=pr-7"), ("X-One", "1")]
    multiple = HTTPHeaderDict(pairs)
    multiple.add("Baggage", "b=2")
    manager = urllib3.PoolManager(headers=HTTPHeaderDict(multiple))
    default = list(manager.headers.items())
    for key in ("pr-1", "pr-2", None):
        with tenancy.scope(key):
            for headers in (dict(pairs), multiple):
                given = list(headers.items())
                sent = baggage(fetch(at(host, recorder_url), manager=manager, headers=headers))
                assert len(sent) < 2
                assert "".join(sent).count(OURS) == (key is not None and host == "orders")
                assert list(headers.items()) == given
            fetch(at(host, recorder_url), manager=manager)
            assert list(manager.headers.items()) == default
    pool = pool_at(at(host, recorder_url), headers=dict(pairs))
    with tenancy.scope("pr-42"):
        pool.urlopen("GET", "/")
    assert pool.headers == dict(pairs)


def test_without_a_key_the_headers_are_the_same_object(recorder_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is copied where there is nothing to carry."""
    seen: list[Any] = []
    original = HTTPConnectionPool._make_request

    def looking(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(kwargs["headers"])
        return original(self, *args, **kwargs)

    monkeypatch.setattr(HTTPConnectionPool, "_make_request", looking)
    adapter.instrument()
    headers = HTTPHeaderDict(baggage="a=1")
    pool = pool_at(recorder_url)
    pool._make_request(pool._get_conn(), "GET", "/", headers=headers)
    assert seen[0] is headers


@pytest.mark.usefixtures("names", "instrumented")
def test_pools_used_directly(recorder_url: str) -> None:
    """A pool without a manager is judged by the host that it connects to, whatever URL it is given."""
    with tenancy.scope("pr-42"):
        for host, told in (("orders", ["sd-routing-key=pr-42"]), ("example.com", [])):
            pool = pool_at(at(host, recorder_url))
            for url in ("/", at(host, recorder_url), "/?http://example.com/"):
                assert baggage(json.loads(pool.urlopen("GET", url).data)) == told
        pool = pool_at(at("example.com", recorder_url))
        response = pool.urlopen("GET", at("orders", recorder_url), assert_same_host=False)
        assert baggage(json.loads(response.data)) == []


@pytest.mark.usefixtures("names")
def test_a_pool_that_is_a_proxy() -> None:
    """Used for other hosts, as urllib3 describes, it is these that are judged, on every hop."""
    adapter.instrument()
    with listening(3) as (url, seen), tenancy.scope("pr-42"):
        pool = HTTPConnectionPool("127.0.0.1", int(url.rpartition(":")[2]))
        for target in ("http://orders/", "http://example.com/", "*"):
            pool.urlopen("OPTIONS", target, assert_same_host=False)
    assert [OURS.encode() in one for one in seen] == [True, False, True]
    assert [one.split()[1] for one in seen] == [b"http://orders/", b"http://example.com/", b"*"]


@pytest.mark.usefixtures("names", "instrumented")
def test_a_pool_follows_redirects(recorder_url: str) -> None:
    """A redirect within a host, which the pool follows itself, carries the key again."""
    for host, told in (("orders", ["sd-routing-key=pr-42"]), ("example.com", [])):
        with tenancy.scope("pr-42"):
            response = pool_at(at(host, recorder_url)).urlopen("GET", "/to?/here", redirect=True)
            assert baggage(json.loads(response.data)) == told


class Encoder:
    """Reads like a multipart encoder: neither a file nor a generator."""

    def __init__(self, keys: list[str | None]) -> None:
        self.keys = keys
        self.left = io.BytesIO(b"x" * 12)

    def read(self, size: int = -1) -> bytes:
        self.keys.append(tenancy.routing_key())
        return self.left.read(size)


@pytest.mark.usefixtures("names", "instrumented")
@pytest.mark.parametrize("host", ["orders", "example.com"])
def test_bodies_are_made_under_the_callers_key(recorder_url: str, host: str) -> None:
    """Code that makes a body while it is sent has the key, also where the host must not see it; files and forms are sent whole."""
    keys: list[str | None] = []

    def chunks() -> Iterator[bytes]:
        for _ in range(3):
            keys.append(tenancy.routing_key())
            yield b"1234"

    url = at(host, recorder_url)
    with tenancy.scope("pr-42"):
        assert fetch(url, "POST", body=chunks(), chunked=True)["size"] == 12
        assert fetch(url, "POST", body=Encoder(keys), headers={"Content-Length": "12"})["size"] == 12
        assert fetch(url, "POST", body=io.BytesIO(b"x" * 12), headers={"Content-Length": "12"})["size"] == 12
        assert fetch(url, "POST", fields={"f": ("f", b"x" * 1000)})["size"] > 1000
        answer = fetch(url, "POST", body=b"x" * 12)
    assert answer["size"] == 12
    assert len(keys) >= 5
    assert set(keys) == {"pr-42"}
    assert [entry for entry in baggage(answer) if OURS in entry] == (["sd-routing-key=pr-42"] if host == "orders" else [])


@pytest.mark.usefixtures("instrumented")
def test_retries_carry_the_key() -> None:
    """Each attempt on a server that fails at first has the same headers."""
    seen: list[str | None] = []

    async def flaky(scope: Any, receive: Any, send: Any) -> None:
        seen.append(header(scope, b"baggage"))
        await respond(send, 503 if len(seen) < 3 else 200)

    with serving(flaky, lifespan="off") as url, tenancy.scope("pr-42"):
        response = urllib3.PoolManager().request("GET", url, retries=Retry(5, status_forcelist=[503], backoff_factor=0))
    assert response.status == 200
    assert seen == ["sd-routing-key=pr-42"] * 3


@pytest.mark.usefixtures("names")
@pytest.mark.parametrize("name", ["baggage", "Baggage"])
def test_beneath_requests_there_is_still_one_header(recorder_url: str, name: str) -> None:
    """With both adapters switched on, a request of requests is decided on twice and carries the key once."""
    adapter.instrument()
    requests_adapter.instrument()
    with tenancy.scope("pr-42"):
        response = requests.get(recorder_url, headers={name: "a=1,sd-routing-key=stale"})
        assert baggage(response.json()) == ["sd-routing-key=pr-42,a=1"]
        response = requests.get(at("example.com", recorder_url), headers={name: "a=1,sd-routing-key=stale"})
        assert baggage(response.json()) == ["a=1"]


@pytest.mark.usefixtures("names", "instrumented")
def test_a_shared_manager_mixes_nothing(recorder_url: str) -> None:
    """Of 200 requests of 20 threads with one manager and few connections, each sends its own key."""
    manager = urllib3.PoolManager(maxsize=5, block=True)
    headers = HTTPHeaderDict({"X-Mine": "1"})

    def sent(number: int) -> list[str]:
        with tenancy.scope(f"k{number}" if number % 4 else None):
            return baggage(
                fetch(at("example.com" if number % 3 == 0 else "orders", recorder_url), manager=manager, headers=headers)
            )

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(sent, range(CROWD)))
    assert answers == [[f"sd-routing-key=k{number}"] if number % 4 and number % 3 else [] for number in range(CROWD)]
    assert dict(headers) == {"X-Mine": "1"}


@pytest.mark.parametrize(
    ("host", "proxy", "url", "judged"),
    [
        ("orders", False, "/x", "orders"),
        ("orders", False, "//example.com/", "orders"),
        ("ORDERS", False, "/", "orders"),
        ("[::1]", False, "/", "::1"),
        ("orders", False, "http://orders/x", "orders"),
        ("orders", False, "http://example.com/x", "example.com"),
        ("example.com", False, "http://orders/x", "example.com"),
        ("proxy", True, "http://ORDERS:80/", "orders"),
        ("proxy", True, "http://u:p@orders/", "orders"),
        ("proxy", True, "http://example.com\\@orders/", None),
        ("proxy", True, "http://[::1]/", "::1"),
        ("proxy", True, "ftp://example.com/", "example.com"),
        ("example.com", True, "http://orders/", "orders"),
        ("proxy", True, "http://[::1", None),
        ("proxy", True, "orders", None),
        ("proxy", True, "", None),
    ],
)
def test_the_host_of_a_request(host: str, proxy: bool, url: str, judged: str | None) -> None:
    """It is the pool's, or behind a proxy that of the URL, if two parsers agree on it."""
    pool = HTTPConnectionPool(host, _proxy=urllib3.util.parse_url("http://proxy:3128") if proxy else None)
    assert adapter._host(pool, url) == judged


def test_wrapped_and_instrumented(recorder_url: str) -> None:
    """Doing both is the same as doing one; a manager is made with the arguments of urllib3's own."""
    adapter.instrument()
    manager = TenancyPoolManager(3, headers={"baggage": "a=1"}, retries=False)
    with tenancy.scope("pr-42"):
        assert baggage(fetch(recorder_url, manager=manager)) == ["sd-routing-key=pr-42,a=1"]
    assert manager.connection_from_url("https://orders/").scheme == "https"


def test_a_mistake_in_the_trusted_hosts_shows_at_the_start() -> None:
    """It raises where the adapter is switched on, and not in the first request that has a key."""
    tenancy.configure(trusted_hosts="https://example.com")
    for start in (adapter.instrument, TenancyPoolManager, lambda: TenancyProxyManager("http://proxy")):
        with pytest.raises(tenancy.ConfigurationError, match="trusted_hosts"):
            start()


def test_switched_off_nothing_is_patched(recorder_url: str) -> None:
    """The attribute is the original, and a manager's pools are urllib3's own."""
    original = HTTPConnectionPool._make_request
    tenancy.configure(enabled=False)
    adapter.instrument()
    assert HTTPConnectionPool._make_request is original
    assert type(TenancyPoolManager().connection_from_url(recorder_url)) is HTTPConnectionPool
    assert type(TenancyProxyManager(recorder_url).connection_from_url("http://orders/")) is HTTPConnectionPool


def test_it_can_be_undone(recorder_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After uninstrument() the attribute is the original; beneath somebody else's patch ours does nothing any more."""
    original = HTTPConnectionPool._make_request
    adapter.instrument()
    adapter.instrument()
    assert HTTPConnectionPool._make_request is not original
    adapter.uninstrument()
    adapter.uninstrument()
    assert HTTPConnectionPool._make_request is original
    adapter.instrument()
    ours: Any = HTTPConnectionPool._make_request
    monkeypatch.setattr(HTTPConnectionPool, "_make_request", lambda self, *args, **kwargs: ours(self, *args, **kwargs))
    adapter.uninstrument()
    with tenancy.scope("pr-42"):
        assert baggage(fetch(recorder_url)) == []
