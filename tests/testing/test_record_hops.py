"""The recorder: what it sees of each client, what it finds wrong, and that it is gone afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import inspect
import socket
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import aiohttp
import aiohttp.http_writer
import aiohttp.web
import aiormq
import grpc._channel
import grpc.aio._call
import httpcore
import httpx
import pytest
import requests
import requests.adapters
from opentelemetry import baggage
from opentelemetry import context as otel
from opentelemetry.context import Context
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.instrumentation.utils import suppress_instrumentation

import tenancy
from tenancy.context import attached
from tenancy.testing import Hops, record_hops
from tests.http.servers import SSL_CONTEXT
from tests.testing.clients import CLIENTS, Client

Instrument = Callable[..., Any]

each_client = pytest.mark.parametrize("client", CLIENTS.values(), ids=CLIENTS)


def at(host: str, url: str) -> str:
    return url.replace("127.0.0.1", host)


def wrong(hops: Hops) -> list[str | None]:
    return [hop.problem for hop in hops.problems()]


# What is seen, and what is wrong with it


@each_client
def test_a_hop_without_the_key_is_told(client: Client, peer: str) -> None:
    """A client that nothing has switched on sends the request as ever, and the message names it, its headers and its place."""

    def work() -> None:
        client.get(peer + "/warm", {})
        with tenancy.scope("pr-42"):
            client.get(peer + "/stock?item=7", {"baggage": "user=ann", "authorization": "secret"})

    with pytest.raises(AssertionError) as caught, record_hops() as hops:
        work()
    message = str(caught.value)
    assert "1 of 2 outbound hops does not carry what it should:" in message
    assert f"GET {peer}/stock?item=7, by {client.layer}\n" in message
    assert "carries no routing key, and the work is pr-42's\n" in message
    assert "baggage: user=ann" in message
    assert "authorization" in message
    assert "secret" not in message
    assert "testing/clients.py:" in message
    assert "ignore('127.0.0.1')" in message
    assert [hop.client for hop in hops] == [client.layer] * 2


@each_client
@pytest.mark.parametrize("first", ["recorder", "instrumentation"])
def test_a_hop_that_carries_it_is_right(client: Client, first: str, peer: str, instrument: Instrument) -> None:
    """Switched on, before the recorder or after it, the same client passes, for each key and for none."""
    libraries = [client.library] if client.library else []
    if first == "instrumentation":
        instrument(*libraries or ["requests"])
    with record_hops() as hops:
        if first == "recorder":
            instrument(*libraries or ["requests"])
        for key in ("pr-1", None, "pr-2"):
            with tenancy.scope(key):
                client.get(peer, {} if libraries else tenancy.inject())
    assert [hop.key for hop in hops] == [hop.expected for hop in hops] == ["pr-1", None, "pr-2"]
    assert [hop.destination for hop in hops] == ["127.0.0.1"] * 3
    assert all(hop.trusted for hop in hops)


@each_client
@pytest.mark.usefixtures("names")
def test_a_key_that_is_told_to_a_stranger_is_a_leak(client: Client, peer: str, instrument: Instrument) -> None:
    """By hand it gets out, and is found; an instrumented client withholds it, and is right. That a destination is ignored excuses nothing."""
    url = at("example.com", peer)
    with tenancy.scope("pr-42"):
        with record_hops(check=False, ignore=["example.com"]) as hops:
            client.get(url, tenancy.inject())
        assert wrong(hops) == ["carries pr-42, to a host that is not trusted"]
        assert "TENANCY_TRUSTED_HOSTS" in (hops.report() or "")
        if client.library:
            instrument(client.library)
            with record_hops() as hops:
                client.get(url, {})
            assert [(hop.key, hop.trusted) for hop in hops] == [(None, False)]
    tenancy.configure(trusted_hosts="example.com")
    with record_hops() as hops, tenancy.scope("pr-42"):
        client.get(url, tenancy.inject())
    assert hops[0].trusted


@pytest.mark.usefixtures("names")
def test_each_hop_of_a_redirect_is_one(peer: str, instrument: Instrument) -> None:
    """OpenTelemetry's instrumentation takes the key along to a stranger; with ours beneath it does not."""
    away = f"{peer}/to?{at('example.com', peer)}/"
    instrumentor = RequestsInstrumentor()
    instrumentor.instrument()
    try:
        with tenancy.scope("pr-42"):
            with record_hops(check=False) as hops:
                requests.get(away, timeout=20)
            assert [hop.destination for hop in hops.problems()] == ["example.com"]
            instrument("requests")
            with record_hops() as hops:
                requests.get(away, timeout=20)
            assert [hop.key for hop in hops] == ["pr-42", None]
    finally:
        instrumentor.uninstrument()


def test_a_hop_counts_though_nobody_is_there() -> None:
    """It is recorded as it leaves, before anybody has answered; each try is one. Only aiohttp connects before it writes."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    for name, client in CLIENTS.items():
        with record_hops(check=False) as hops, tenancy.scope("pr-42"), pytest.raises(Exception, match=r"(?i)refused|connect"):
            client.get(url, {})
        assert set(wrong(hops)) == (set() if name == "aiohttp" else {"carries no routing key, and the work is pr-42's"})


def test_another_key_and_several_are_wrong(peer: str) -> None:
    """A hop says one key, and it is that of the work."""
    cases = {
        "sd-routing-key=pr-7": "carries pr-7, and the work is pr-42's",
        "sd-routing-key=PR_7": "carries 'PR_7', which is no routing key, and the work is pr-42's",
        "sd-routing-key=pr-7,sd-routing-key=pr-42": "carries several routing keys, of which pr-42 is read",
        "a=1,sd-routing-key=pr-42;ttl=1": None,
    }
    for value, problem in cases.items():
        with record_hops(check=False) as hops, tenancy.scope("pr-42"):
            requests.get(peer, headers={"baggage": value}, timeout=20)
        assert [hop.problem for hop in hops] == [problem]
        assert bool(hops.report()) == bool(problem)


def test_work_that_has_no_key_on_purpose_sends_none(peer: str) -> None:
    """In `scope(None)` a header that was passed on is wrong; where nobody said anything it is a key that is passed on, and right."""
    headers = {"baggage": "sd-routing-key=pr-7"}
    with record_hops(check=False, key="pr-42") as hops:
        requests.get(peer, headers=headers, timeout=20)
        with tenancy.scope(None):
            requests.get(peer, headers=headers, timeout=20)
            requests.get(peer, timeout=20)
    assert [hop.problem is None for hop in hops] == [False, False, True]
    with record_hops():
        requests.get(peer, headers=headers, timeout=20)


def by_a_thread(work: Callable[[], object]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(20)


def by_a_pool(work: Callable[[], object]) -> None:
    with ThreadPoolExecutor() as pool:
        pool.submit(work).result(20)


def by_a_timer(work: Callable[[], object]) -> None:
    timer = threading.Timer(0, work)
    timer.start()
    while timer.is_alive():
        timer.join(0.01)


@pytest.mark.parametrize("hand_over", [by_a_thread, by_a_pool, by_a_timer])
def test_a_thread_that_the_work_has_waited_for_is_part_of_it(hand_over: Callable[[Any], None], peer: str) -> None:
    """What it sends has lost the key, unless it took that along; one whose work is said to be nobody's has none to lose."""

    def fetch() -> None:
        requests.get(peer, headers=tenancy.inject({}), timeout=20)

    with pytest.raises(AssertionError) as caught, record_hops() as hops, tenancy.scope("pr-42"):
        hand_over(fetch)
    assert (hops[0].current, hops[0].expected, hops[0].lost) == (None, "pr-42", True)
    assert "the work is pr-42's. The context in which it was sent says nothing: a thread" in str(caught.value)
    assert "Thread(target=tenancy.scope(tenancy.routing_key())(work))" in str(caught.value)
    with record_hops() as hops:
        with tenancy.scope("pr-42"):
            hand_over(tenancy.scope(tenancy.routing_key())(fetch))
            hand_over(tenancy.scope(None)(fetch))
            hand_over(lambda: requests.get(peer, headers=tenancy.inject(key="pr-7"), timeout=20))
        hand_over(fetch)
    assert [hop.key for hop in hops] == ["pr-42", None, "pr-7", None]
    assert not any(hop.lost for hop in hops)


def test_whose_work_a_thread_is_that_nobody_waits_for_cannot_be_known(peer: str) -> None:
    """It may serve others; so may one that was there before, or for which others wait. A recorder that knows the key finds all."""
    going = threading.Event()

    def fetch() -> None:
        going.wait(20)
        requests.get(peer, timeout=20)

    def work() -> None:
        threads = [threading.Thread(target=fetch) for _ in range(4)]
        threads[0].start()
        with tenancy.scope("pr-42"):
            for thread in threads[1:]:
                thread.start()
            threads[1].join(0.01)  # not waited for until it ends
        going.set()
        threads[1].join(20)
        with tenancy.scope("pr-7"):
            threads[2].join(20)
        while threads[3].is_alive():
            time.sleep(0.01)
        with tenancy.scope("pr-42"):
            threads[0].join(20)

    with record_hops() as hops:
        work()
    assert [(hop.current, hop.expected) for hop in hops] == [(None, None)] * 4
    with pytest.raises(AssertionError, match="4 of 4 outbound hops"), record_hops(key="pr-42"):
        work()
    with pytest.raises(tenancy.InvalidRoutingKeyError), record_hops(key="PR_42"):
        pass


def test_hops_that_are_forgotten_are_not_found_when_their_thread_ends(peer: str) -> None:
    """Nor is one that the destination's being ignored excuses."""
    with record_hops() as hops, tenancy.scope("pr-42"):
        sent, going = threading.Event(), threading.Event()
        thread = threading.Thread(target=lambda: (requests.get(peer, timeout=20), sent.set(), going.wait(20)))
        thread.start()
        sent.wait(20)
        hops.clear()
        going.set()
        thread.join(20)
        by_a_thread(lambda: requests.get(at("localhost", peer), timeout=20))
        hops.ignore("localhost")
    assert [hop.lost for hop in hops] == [True]


def test_telemetry_is_nobody_s_work(peer: str) -> None:
    """What OpenTelemetry's exporters send needs no key, and may tell no stranger one."""
    with record_hops(key="pr-42") as hops, suppress_instrumentation():
        requests.get(peer, timeout=20)
        with attached(otel.set_value(otel._SUPPRESS_INSTRUMENTATION_KEY, True, Context())):
            requests.get(peer, timeout=20)
    assert [hop.telemetry for hop in hops] == [True, True]


def test_destinations_are_ignored_by_name_or_pattern(peer: str) -> None:
    """Before or after the hop, and whatever the case."""
    with record_hops(check=False, ignore="LOCALHOST") as hops, tenancy.scope("pr-42"):
        requests.get(at("localhost", peer), timeout=20)
        requests.get(peer, timeout=20)
    assert [hop.destination for hop in hops.problems()] == ["127.0.0.1"]
    assert hops.to("local*") == [hops[0]]
    assert hops.to("127.0.0.1") == hops[1:]
    hops.ignore("127.*")
    hops.check()
    assert repr(hops) == "<Hops: 2, of which 0 with a problem>"
    hops.clear()
    assert list(hops) == []


def test_the_check_is_left_out_where_the_block_fails(peer: str) -> None:
    """The block's own exception is the news."""

    def work() -> None:
        requests.get(peer, timeout=20)
        raise LookupError("the test's own")

    with pytest.raises(LookupError, match="the test's own"), record_hops(), tenancy.scope("pr-42"):
        work()


def test_a_hop_that_cannot_be_understood_goes_out_and_is_told(peer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of the recorder's does not reach the code under test, nor does it pass for a hop that is right."""
    monkeypatch.setattr("tenancy.testing.hops.hop_of", lambda sighting: 1 / 0)
    with pytest.raises(AssertionError, match=r"could not be understood.*ZeroDivisionError"), record_hops() as hops:
        assert requests.get(peer, timeout=20).status_code == 200
    assert len(hops) == 0


def test_through_a_proxy() -> None:
    """It is the host that is asked for, in the clear or through a tunnel; the tunnel itself is no hop of its own."""
    listener = socket.create_server(("127.0.0.1", 0))

    def proxy() -> None:
        for _ in range(3):
            connection, _ = listener.accept()
            with connection:
                while connection.recv(65536).startswith(b"CONNECT"):
                    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")

    thread = threading.Thread(target=proxy, daemon=True)
    thread.start()
    port = listener.getsockname()[1]
    with record_hops(check=False) as hops, tenancy.scope("pr-42"):
        requests.get("http://orders:81/x", proxies={"http": f"http://127.0.0.1:{port}"}, timeout=20)
        tunnel = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        tunnel.set_tunnel("orders.example.com", 81)
        tunnel.request("GET", "/y", headers=tenancy.inject())
        tunnel.getresponse().read()
        tunnel.close()
        with httpx.Client(proxy=f"http://127.0.0.1:{port}", verify=SSL_CONTEXT) as client:
            client.get("http://orders:81/z")
    thread.join(20)
    listener.close()
    assert [hop.destination for hop in hops] == ["orders", "orders.example.com", "orders"]
    assert [hop.action for hop in hops] == [
        "GET http://orders:81/x",
        "GET http://orders.example.com:81/y",
        "GET http://orders:81/z",
    ]
    assert [hop.problem is None for hop in hops] == [False, False, False]


def test_streams_websockets_and_servers_of_aiohttp(peer: str) -> None:
    """A WebSocket's handshake is a hop; what an aiohttp server answers is none."""

    async def handler(request: aiohttp.web.Request) -> Any:
        if request.path == "/plain":
            return aiohttp.web.Response(text="ok")
        socket = aiohttp.web.WebSocketResponse()
        await socket.prepare(request)
        await socket.close()
        return socket

    async def run() -> None:
        runner = aiohttp.web.ServerRunner(aiohttp.web.Server(handler))  # type: ignore[arg-type]
        await runner.setup()
        site = aiohttp.web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with aiohttp.ClientSession() as session:
            await (await session.get(url + "/plain")).read()
            await (await session.ws_connect(url + "/socket")).close()
        await runner.cleanup()

    with record_hops(check=False) as hops, tenancy.scope("pr-42"):
        asyncio.run(run())
    assert [hop.action.rpartition("/")[2] for hop in hops] == ["plain", "socket"]
    assert len(hops.problems()) == 2


# Undone


def patched() -> list[tuple[Any, str, Any]]:
    places: list[tuple[Any, str]] = [
        (threading.Thread, "start"),
        (threading.Thread, "join"),
        (http.client.HTTPConnection, "endheaders"),
        (httpcore.ConnectionPool, "handle_request"),
        (httpcore.AsyncConnectionPool, "handle_async_request"),
        (aiohttp.http_writer.StreamWriter, "write_headers"),
        (aiormq.Channel, "basic_publish"),
        *((getattr(grpc._channel, f"_{kind}MultiCallable"), "__call__") for kind in ("UnaryUnary", "UnaryStream", "StreamStream")),
        (grpc._channel._UnaryUnaryMultiCallable, "future"),
        (grpc._channel._UnaryUnaryMultiCallable, "with_call"),
        *((getattr(grpc.aio._call, f"{kind}Call"), "__init__") for kind in ("UnaryUnary", "StreamStream")),
    ]
    return [(owner, name, vars(owner)[name]) for owner, name in places]


def test_afterwards_every_attribute_is_the_original() -> None:
    """Also after blocks within blocks, blocks that end in another order, and a block that fails."""
    before, finders = patched(), list(sys.meta_path)
    with contextlib.suppress(LookupError), record_hops(), record_hops():
        assert all(now is not then for (*_, now), (*_, then) in zip(patched(), before, strict=True))
        raise LookupError
    first, second = record_hops(), record_hops()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert patched() != before
    second.__exit__(None, None, None)
    assert all(now is then for (*_, now), (*_, then) in zip(patched(), before, strict=True))
    assert sys.meta_path == finders


def test_adapters_may_be_switched_on_and_off_in_between() -> None:
    """Neither is in the other's way: whoever ends last, every attribute is the original."""
    adapted = [(requests.adapters.HTTPAdapter, "send"), (httpx.HTTPTransport, "handle_request"), (aiohttp.ClientRequest, "send")]
    before = patched(), [vars(owner)[name] for owner, name in adapted]
    with record_hops():
        tenancy.instrument("requests", "httpx", "aiohttp", "urllib3", "urllib")
    assert [vars(owner)[name] for owner, name in adapted] != before[1]
    with record_hops():
        tenancy.uninstrument()
    assert all(now is then for (*_, now), (*_, then) in zip(patched(), before[0], strict=True))
    assert [vars(owner)[name] for owner, name in adapted] == before[1]


def test_what_somebody_else_has_wrapped_does_nothing_any_more(peer: str) -> None:
    """A mock that began inside and ends outside leaves one of ours behind; it records nothing, also for the next recorder."""
    original = http.client.HTTPConnection.endheaders
    try:
        with record_hops() as first:
            ours = http.client.HTTPConnection.endheaders
            http.client.HTTPConnection.endheaders = lambda *a, **k: ours(*a, **k)  # type: ignore[method-assign]
        requests.get(peer, timeout=20)
        assert len(first) == 0
        with record_hops() as second:
            requests.get(peer, timeout=20)
        assert len(second) == 1
    finally:
        http.client.HTTPConnection.endheaders = original  # type: ignore[method-assign]


def test_signatures_and_kinds_stay() -> None:
    """What is replaced looks as before, to whoever inspects it."""
    before = [(inspect.signature(value), inspect.iscoroutinefunction(value), value.__name__) for *_, value in patched()]
    with record_hops():
        assert [(inspect.signature(value), inspect.iscoroutinefunction(value), value.__name__) for *_, value in patched()] == before


def test_recorders_at_the_same_time_see_the_same(peer: str) -> None:
    """Each judges by what it was told."""
    with record_hops(check=False) as outer, record_hops(check=False, key="pr-42", ignore="elsewhere") as inner:
        requests.get(peer, timeout=20)
    assert (len(outer), len(inner)) == (1, 1)
    assert (len(outer.problems()), len(inner.problems())) == (0, 1)


# Libraries that come later, or are built differently


GRPC_CALL = """
import grpc
channel = grpc.insecure_channel("127.0.0.1:9")
try:
    channel.unary_unary("/a.B/C")(b"", timeout=5)
except grpc.RpcError:
    pass
"""


@pytest.mark.parametrize(
    ("library", "code"),
    [
        ("httpcore", "import httpx\ntry: httpx.get(url, timeout=5)\nexcept httpx.TransportError: pass"),
        ("grpc", GRPC_CALL),
    ],
)
def test_a_client_that_is_imported_later_is_seen(library: str, code: str) -> None:
    """Inside of the block, by the code under test; the module is as if nobody had been in between."""
    program = f"""
import sys
import tenancy
from tenancy.testing import record_hops
url = "http://127.0.0.1:9/"
assert {library!r} not in sys.modules
with record_hops(check=False) as hops, tenancy.scope("pr-42"):
{chr(10).join("    " + line for line in code.splitlines())}
module = sys.modules[{library!r}]
assert module.__spec__.loader is module.__loader__ and "tenancy" not in type(module.__loader__).__module__
print(*[hop.problem for hop in hops])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "carries no routing key, and the work is pr-42's", done.stderr


def test_a_library_that_fails_to_import_fails_as_ever() -> None:
    """Its own exception, and a second try is one; what is not there is not there."""
    program = """
import pathlib, sys, tempfile
from tenancy.testing import record_hops
folder = tempfile.mkdtemp()
sys.path.insert(0, folder)
sys.modules.pop("grpc", None)
path = pathlib.Path(folder, "aiohttp.py")
path.write_text("raise LookupError('its own')")
pathlib.Path(folder, "httpcore").mkdir()
with record_hops():
    for _ in range(2):
        try:
            import aiohttp
        except LookupError as error:
            print(error)
    try:
        import aiormq.nothing_of_the_kind
    except ModuleNotFoundError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == ["its own", "its own", "No module named 'aiormq.nothing_of_the_kind'"]


def test_a_version_that_is_built_differently_is_told(monkeypatch: pytest.MonkeyPatch, peer: str) -> None:
    """Its hops cannot be seen, which is a warning; those of others are."""
    monkeypatch.setitem(sys.modules, "httpcore", types.ModuleType("httpcore"))
    with pytest.warns(UserWarning, match=r"cannot see the hops of this version of httpcore.*ConnectionPool"), record_hops() as hops:
        requests.get(peer, timeout=20)
    assert len(hops) == 1


def test_the_baggage_of_others_is_no_key(peer: str) -> None:
    """Only what settings read is one."""
    with record_hops() as hops, attached(baggage.set_baggage("user", "ann")):
        requests.get(peer, headers={"baggage": "user=ann"}, timeout=20)
    assert hops[0].key is None
    assert ("baggage", "user=ann") in hops[0].headers
