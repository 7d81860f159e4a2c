from __future__ import annotations

import io
import socket
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import requests
from opentelemetry import propagate, trace
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from requests.adapters import HTTPAdapter
from requests.auth import HTTPDigestAuth
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.util import Retry

import tenancy
from tenancy.http import requests as adapter
from tenancy.http.requests import TenancyAdapter
from tests.http.servers import header, respond, serving

OURS = "sd-routing-key"


@pytest.fixture(autouse=True)
def _uninstrumented() -> Iterator[None]:
    yield
    adapter.uninstrument()


@pytest.fixture(params=["ours alone", "theirs first", "ours first"])
def instrumented(request: pytest.FixtureRequest) -> Iterator[None]:
    theirs = RequestsInstrumentor()
    if request.param == "theirs first":
        theirs.instrument(tracer_provider=TracerProvider())
    adapter.instrument()
    if request.param == "ours first":
        theirs.instrument(tracer_provider=TracerProvider())
    yield
    if request.param != "ours alone":
        theirs.uninstrument()


def baggage(response: requests.Response) -> list[str]:
    return [value for name, value in response.json()["headers"] if name == "baggage"]


def at(host: str, url: str) -> str:
    return url.replace("127.0.0.1", host)


@pytest.mark.usefixtures("names", "instrumented")
def test_only_trusted_hosts_are_told(recorder_url: str) -> None:
    """Beneath OpenTelemetry's instrumentation, the key goes to trusted hosts and to no other."""
    with tenancy.scope("pr-42"):
        assert baggage(requests.get(recorder_url)) == ["sd-routing-key=pr-42"]
        assert baggage(requests.get(at("orders", recorder_url))) == ["sd-routing-key=pr-42"]
        for host in ("example.com", "134744072", "user:password@example.com", "orders@example.com"):
            assert baggage(requests.get(at(host, recorder_url))) == []
        headers = {"Baggage": "a=1,sd-routing-key=pr-42", "OT-Baggage-SD-Routing-Key": "pr-42"}
        assert OURS not in requests.get(at("example.com", recorder_url), headers=headers).text.lower()
        assert tenancy.routing_key() == "pr-42"
    assert baggage(requests.get(recorder_url)) == []


@pytest.mark.usefixtures("names")
def test_instrumentation_further_in_has_nothing_to_tell(recorder_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where something beneath the adapter injects the current baggage, as OpenTelemetry's for urllib3 does, other hosts are not told."""
    original = HTTPConnectionPool.urlopen

    def urlopen(self: Any, *args: Any, headers: Any, **kwargs: Any) -> Any:
        propagate.inject(headers)
        return original(self, *args, headers=headers, **kwargs)

    monkeypatch.setattr(HTTPConnectionPool, "urlopen", urlopen)
    adapter.instrument()
    with tenancy.scope("pr-42"):
        assert baggage(requests.get(recorder_url)) == ["sd-routing-key=pr-42"]
        assert baggage(requests.get(at("example.com", recorder_url))) == []


@pytest.mark.usefixtures("names", "instrumented")
def test_a_key_in_the_current_trace_is_withheld_as_well(recorder_url: str) -> None:
    """OpenTelemetry writes the tracestate that came in, with whatever key it has."""
    state = trace.TraceState([("v", "1"), (OURS, "pr-42")])
    span = trace.NonRecordingSpan(trace.SpanContext(1, 2, True, trace.TraceFlags(1), state))
    for key in (None, "pr-42"):
        with trace.use_span(span), tenancy.scope(key) if key else nullcontext():
            assert OURS not in (requests.get(at("example.com", recorder_url))).text
            requests.get(recorder_url)
            assert trace.get_current_span() is span


@pytest.mark.usefixtures("names", "instrumented")
def test_every_hop_of_a_redirect_is_judged(recorder_url: str) -> None:
    """From a trusted host to another one and back: told, not told, told again, with all that comes between."""
    back = at("orders", recorder_url)
    away = at("example.com", recorder_url) + "/to307?" + back
    with tenancy.scope("pr-42"):
        for method, data in (("GET", None), ("POST", b"the body")):
            response = requests.request(method, recorder_url + "/to307?" + away, data=data)
            assert [hop.headers["x-seen-baggage"] for hop in response.history] == ["sd-routing-key=pr-42", "-"]
            assert baggage(response) == ["sd-routing-key=pr-42"]
            assert response.json()["size"] == len(data or b"")
        first = requests.get(recorder_url + "/to?" + at("example.com", recorder_url), allow_redirects=False)
        assert first.next is not None
        assert baggage(requests.Session().send(first.next)) == []


@pytest.mark.usefixtures("names")
def test_a_redirect_to_a_host_in_disguise(recorder_url: str) -> None:
    """A host that is not beyond doubt is not told."""
    adapter.instrument()
    for host in ("orders\\@example.com", "orders%2f@example.com", "example%2ecom"):
        with tenancy.scope("pr-42"):
            try:
                response = requests.get(recorder_url + "/to?" + at(host, recorder_url))
            except requests.RequestException:
                continue
        assert baggage(response) == [], host


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://orders/x", "orders"),
        ("http://ORDERS:80/", "orders"),
        ("http://u:p@orders:80/", "orders"),
        ("https://[::1]:80/", "::1"),
        ("http://[fe80::1%25eth0]/", None),
        ("http://orders\\@example.com/", None),
        ("http://[::1", None),
        ("http:///x", None),
        ("", None),
        (None, None),
    ],
)
def test_the_host_of_a_url(url: str | None, host: str | None) -> None:
    """It is what both parsers find, or nothing."""
    assert adapter._host(url) == host


@pytest.mark.usefixtures("instrumented")
def test_one_entry_of_ours(recorder_url: str) -> None:
    """A stale key in the headers of a request or of its session is replaced."""
    with requests.Session() as session, tenancy.scope("pr-42"):
        session.headers["Baggage"] = "sd-routing-key=stale"
        response = session.get(recorder_url, headers={"uberctx-sd-routing-key": "stale"})
    assert baggage(response) == ["sd-routing-key=pr-42"]
    assert "stale" not in response.text


def test_the_members_of_others_keep_their_bytes(recorder_url: str) -> None:
    """Ours goes first; a request outside of any scope that names a key itself keeps it."""
    adapter.instrument()
    with tenancy.scope("pr-42"):
        response = requests.get(recorder_url, headers={"BAGGAGE": b"a=%41;p=1 , sd-routing-key=pr-7,c=\xc3\xbc"})
    assert baggage(response) == ["sd-routing-key=pr-42,a=%41;p=1 ,c=\xc3\xbc"]
    assert baggage(requests.get(recorder_url, headers={"baggage": "a=1,sd-routing-key=pr-7"})) == ["sd-routing-key=pr-7,a=1"]


def test_the_callers_request_is_not_changed(recorder_url: str) -> None:
    """What is sent is a copy; the response shows it, with the headers as they went out."""
    adapter.instrument()
    prepared = requests.Request("POST", recorder_url, headers={"Baggage": "a=1"}, data=b"x", cookies={"c": "1"}).prepare()
    before = dict(prepared.headers)
    with requests.Session() as session, tenancy.scope("pr-42"):
        response = session.send(prepared)
    assert dict(prepared.headers) == before
    assert baggage(response) == ["sd-routing-key=pr-42,a=1"]
    assert response.request.headers["baggage"] == "sd-routing-key=pr-42,a=1"
    assert (response.request.url, response.request.body) == (prepared.url, prepared.body)


def test_without_a_key_the_request_is_the_same_object(recorder_url: str) -> None:
    """Nothing is copied where there is nothing to carry."""
    adapter.instrument()
    prepared = requests.Request("GET", recorder_url, headers={"baggage": "a=1"}).prepare()
    with requests.Session() as session:
        assert session.send(prepared).request is prepared


class Encoder:
    """Reads like a multipart encoder: neither a file nor a generator."""

    def __init__(self, keys: list[str | None]) -> None:
        self.keys = keys
        self.left = io.BytesIO(b"x" * 12)
        self.len = 12

    def read(self, size: int = -1) -> bytes:
        self.keys.append(tenancy.routing_key())
        return self.left.read(size)


@pytest.mark.usefixtures("names", "instrumented")
@pytest.mark.parametrize("host", ["orders", "example.com"])
def test_bodies_are_made_under_the_callers_key(recorder_url: str, host: str) -> None:
    """Code that makes a body while it is sent has the key, also where the host must not see it; files are sent whole."""
    keys: list[str | None] = []

    def chunks() -> Iterator[bytes]:
        for _ in range(3):
            keys.append(tenancy.routing_key())
            yield b"1234"

    class Parts:
        def __iter__(self) -> Iterator[bytes]:
            return chunks()

    with tenancy.scope("pr-42"):
        for data, options in (
            (chunks(), {}),
            (Parts(), {}),
            (Encoder(keys), {}),
            (io.BytesIO(b"x" * 12), {}),
            ([("a", "b" * 10)], {}),
        ):
            response = requests.post(at(host, recorder_url), data=data, **options)  # type: ignore[arg-type]
            assert response.json()["size"] == 12, data
        assert requests.post(at(host, recorder_url), files={"f": b"x" * 1000}).json()["size"] > 1000
        assert requests.post(at(host, recorder_url), json={"a": 1}).json()["size"] == 8
    assert set(keys) == {"pr-42"}
    assert [entry for entry in baggage(response) if OURS in entry] == (["sd-routing-key=pr-42"] if host == "orders" else [])


@pytest.mark.usefixtures("names")
def test_a_body_survives_a_redirect(recorder_url: str) -> None:
    """A file is rewound and sent again to the next host."""
    adapter.instrument()
    with tenancy.scope("pr-42"):
        for host in ("orders", "example.com"):
            url = at(host, recorder_url) + "/to307?" + at("orders", recorder_url)
            assert requests.post(url, data=io.BytesIO(b"x" * 12)).json()["size"] == 12


@pytest.mark.usefixtures("names", "instrumented")
@pytest.mark.parametrize("host", ["127.0.0.1", "example.com"])
def test_exceptions_pass_and_the_context_is_restored(host: str, caplog: pytest.LogCaptureFixture) -> None:
    """A connection that fails raises requests' own error with its request, and the key is current again."""
    with tenancy.scope("pr-42"):
        with pytest.raises(requests.ConnectionError) as caught:
            requests.get(f"http://{host}:1/")
        assert tenancy.routing_key() == "pr-42"
    assert caught.value.request is not None
    assert "detach" not in caplog.text


def test_retries_carry_the_key() -> None:
    """Each attempt on a server that fails at first has the same headers."""
    adapter.instrument()
    seen: list[str | None] = []

    async def flaky(scope: Any, receive: Any, send: Any) -> None:
        seen.append(header(scope, b"baggage"))
        await respond(send, 503 if len(seen) < 3 else 200)

    with serving(flaky, lifespan="off") as url, requests.Session() as session, tenancy.scope("pr-42"):
        session.mount("http://", HTTPAdapter(max_retries=Retry(5, status_forcelist=[503], backoff_factor=0)))
        assert session.get(url).status_code == 200
    assert seen == ["sd-routing-key=pr-42"] * 3


def test_authentication_in_two_steps() -> None:
    """A digest challenge is answered with the key as well."""
    adapter.instrument()
    seen: list[tuple[bool, str | None]] = []

    async def guarded(scope: Any, receive: Any, send: Any) -> None:
        answered = header(scope, b"authorization") is not None
        seen.append((answered, header(scope, b"baggage")))
        await respond(
            send, 200 if answered else 401, [] if answered else [(b"www-authenticate", b'Digest realm="r", nonce="n", qop="auth"')]
        )

    with serving(guarded, lifespan="off") as url, tenancy.scope("pr-42"):
        assert requests.post(url, data=b"body", auth=HTTPDigestAuth("u", "p")).status_code == 200
    assert seen == [(False, "sd-routing-key=pr-42"), (True, "sd-routing-key=pr-42")]


@pytest.mark.usefixtures("names", "instrumented")
def test_a_pooled_connection_does_not_remember(recorder_url: str) -> None:
    """Requests of several keys, and of none, over one session carry their own."""
    with requests.Session() as session:
        for key in ("pr-1", None, "pr-2", None):
            with tenancy.scope(key):
                assert baggage(session.get(recorder_url)) == ([f"sd-routing-key={key}"] if key else [])
                assert baggage(session.get(at("example.com", recorder_url))) == []
            assert baggage(session.get(recorder_url)) == []


def test_streamed_responses(recorder_url: str) -> None:
    """A response that is read bit by bit is the same."""
    adapter.instrument()
    with tenancy.scope("pr-42"), requests.get(recorder_url, stream=True) as response:
        assert b"pr-42" in b"".join(response.iter_content(7))


def test_wrapped_and_instrumented(recorder_url: str) -> None:
    """Doing both is the same as doing one; an adapter is made with the arguments of requests' own."""
    adapter.instrument()
    with requests.Session() as session, tenancy.scope("pr-42"):
        session.mount("http://", TenancyAdapter(max_retries=3, pool_maxsize=2))
        assert baggage(session.get(recorder_url, headers={"baggage": "a=1"})) == ["sd-routing-key=pr-42,a=1"]


def test_an_adapter_is_for_its_prefix(recorder_url: str) -> None:
    """Mounted for one host, other hosts are reached as before."""
    with requests.Session() as session, tenancy.scope("pr-42"):
        session.mount(recorder_url, TenancyAdapter())
        assert baggage(session.get(recorder_url)) == ["sd-routing-key=pr-42"]
        assert baggage(session.get(at("localhost", recorder_url))) == []


def test_through_a_proxy() -> None:
    """The host that is called is judged, not the proxy."""
    seen: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def proxy() -> None:
        for _ in range(2):
            connection, _ = listener.accept()
            with connection:
                seen.append(connection.recv(65536))
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")

    thread = threading.Thread(target=proxy, daemon=True)
    thread.start()
    adapter.instrument()
    proxies = {"http": f"http://127.0.0.1:{listener.getsockname()[1]}"}
    with tenancy.scope("pr-42"):
        requests.get("http://example.com/", proxies=proxies)
        requests.get("http://orders/", proxies=proxies)
    thread.join(10)
    listener.close()
    assert [OURS.encode() in one for one in seen] == [False, True]


def test_a_mistake_in_the_trusted_hosts_shows_at_the_start() -> None:
    """It raises where the adapter is switched on, and not in the first request that has a key."""
    tenancy.configure(trusted_hosts="https://example.com")
    with pytest.raises(tenancy.ConfigurationError, match="trusted_hosts"):
        adapter.instrument()


def test_switched_off_nothing_is_patched(recorder_url: str) -> None:
    """The attribute is the original, and a mounted adapter is like requests' own."""
    original = HTTPAdapter.send
    tenancy.configure(enabled=False)
    adapter.instrument()
    assert HTTPAdapter.send is original
    with requests.Session() as session, tenancy.scope("pr-42"):
        session.mount("http://", TenancyAdapter())
        assert baggage(session.get(recorder_url)) == []


def test_it_can_be_undone(recorder_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After uninstrument() the attribute is the original; beneath somebody else's patch ours does nothing any more."""
    original = HTTPAdapter.send
    adapter.instrument()
    adapter.instrument()
    assert HTTPAdapter.send is not original
    adapter.uninstrument()
    adapter.uninstrument()
    assert HTTPAdapter.send is original
    adapter.instrument()
    ours = HTTPAdapter.send
    monkeypatch.setattr(HTTPAdapter, "send", lambda self, request, **kwargs: ours(self, request, **kwargs))
    adapter.uninstrument()
    with tenancy.scope("pr-42"):
        assert baggage(requests.get(recorder_url)) == []
    monkeypatch.setattr(HTTPAdapter, "send", original)
