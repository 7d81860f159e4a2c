from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import grpc
import pytest
from opentelemetry import baggage
from opentelemetry import context as otel
from opentelemetry.instrumentation.grpc import client_interceptor as otel_client_interceptor
from opentelemetry.instrumentation.grpc.grpcext import intercept_channel as otel_intercept_channel
from opentelemetry.sdk.trace import TracerProvider

import tenancy
from tenancy.context import attached
from tenancy.grpc import ClientInterceptor, metadata
from tests.grpc.wire import ARITIES, Pairs, Service, call, method, mirror, pairs, serving

KEY = ("baggage", "sd-routing-key=pr-42")


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    with serving(mirror()) as target:
        yield target


@pytest.fixture
def plain(target: str) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(target) as channel:
        yield channel


@pytest.fixture
def channel(plain: grpc.Channel) -> grpc.Channel:
    return grpc.intercept_channel(plain, ClientInterceptor())


@pytest.fixture
def traced(plain: grpc.Channel) -> grpc.Channel:
    """OpenTelemetry's interceptor between ours and the wire."""
    return grpc.intercept_channel(otel_intercept_channel(plain, otel_client_interceptor(TracerProvider())), ClientInterceptor())


def sent(channel: grpc.Channel, metadata: Any = None, arity: str = "unary_unary") -> Pairs:
    return pairs(call(channel, arity, metadata))


@pytest.mark.parametrize("arity", ARITIES)
def test_the_key_goes_out_once_and_first(channel: grpc.Channel, arity: str) -> None:
    """Whatever the call's own metadata says of a key, the current one goes out, in one entry, before other people's members."""
    given = [
        ("x-one", "1"),
        ("baggage", "a=%20b;p=1,sd-routing-key=stale"),
        ("payload-bin", b"\x00\xff"),
        ("baggage", "c=d"),
        ("ot-baggage-sd-routing-key", "stale"),
        ("tracestate", "vendor=1,sd-routing-key=stale"),
    ]
    with tenancy.scope("pr-42"):
        wire = sent(channel, given, arity)
    assert sorted(wire) == [
        ("baggage", "sd-routing-key=pr-42,a=%20b;p=1,c=d"),
        ("payload-bin", "00ff"),
        ("tracestate", "vendor=1"),
        ("x-one", "1"),
    ]


@pytest.mark.parametrize("given", [None, (), [], (("x", "1"),), [("x", "1")], [("x-bin", b"\x00"), ("x", "1")]])
def test_metadata_may_have_any_shape(channel: grpc.Channel, given: Any) -> None:
    """Metadata may be absent, a list or a tuple, whatever its first value is."""
    with tenancy.scope("pr-42"):
        assert KEY in sent(channel, given)


def test_metadata_that_can_be_read_only_once(channel: grpc.Channel) -> None:
    """Metadata from a generator, which grpc takes as well, arrives with a key and without."""
    assert sent(channel, (pair for pair in [("x", "1")])) == [("x", "1")]
    with tenancy.scope("pr-42"):
        assert sorted(sent(channel, (pair for pair in [("x", "1")]))) == [KEY, ("x", "1")]


def test_metadata_of_the_caller_stays_as_it_was(channel: grpc.Channel) -> None:
    """The list that a caller passes, and perhaps uses again, is not changed."""
    given = [("baggage", "a=1,sd-routing-key=stale"), ("x", "1")]
    with tenancy.scope("pr-42"):
        sent(channel, given)
    assert given == [("baggage", "a=1,sd-routing-key=stale"), ("x", "1")]


def test_forwarded_metadata_keeps_its_key(channel: grpc.Channel) -> None:
    """Where nothing was said about a key, one that the caller forwards goes on, brought to one entry."""
    assert sent(channel, [("ot-baggage-sd-routing-key", "pr-42")]) == [KEY]
    assert sent(channel, [("baggage", "a=1")]) == [("baggage", "a=1")]


def test_a_scope_without_a_key_sends_none(channel: grpc.Channel) -> None:
    """Work that was said to have no key sends none, not even one in the metadata that it forwards."""
    with tenancy.scope(None):
        assert sent(channel, [("baggage", "sd-routing-key=pr-42,a=1"), ("uberctx-sd-routing-key", "pr-42")]) == [("baggage", "a=1")]


def test_a_malformed_key_is_not_forwarded(channel: grpc.Channel) -> None:
    """What stands in the place of a key but is none does not travel on."""
    assert sent(channel, [("baggage", "sd-routing-key=PR 42,a=1")]) == [("baggage", "a=1")]


def test_the_outer_scope_is_back_after_the_call(channel: grpc.Channel) -> None:
    """A call leaves the caller's own key current, whatever it sent."""
    with tenancy.scope("pr-42"):
        sent(channel)
        assert tenancy.routing_key() == "pr-42"
    untrusted = grpc.intercept_channel(channel, ClientInterceptor(trusted=False))
    with tenancy.scope("pr-42"):
        assert sent(untrusted) == []
        assert tenancy.routing_key() == "pr-42"


class TestReturnedCalls:
    """What a call returns is what grpc returns."""

    def test_a_stream_can_be_cancelled(self) -> None:
        """A call that streams its responses has grpc's whole interface, such as cancel(), code() and add_callback()."""
        stopped = threading.Event()

        def endless(request: Any, context: Any) -> Iterator[bytes]:
            context.add_callback(stopped.set)
            while context.is_active():
                yield b"more"

        with serving(Service(endless=("unary_stream", endless))) as target, grpc.insecure_channel(target) as plain:
            channel = grpc.intercept_channel(plain, ClientInterceptor())
            with tenancy.scope("pr-42"):
                responses = channel.unary_stream(method("endless"))(b"1")
            assert isinstance(responses, grpc.Call)
            assert isinstance(responses, grpc.Future)
            assert next(responses) == b"more"
            assert responses.cancel()
            assert responses.code() is grpc.StatusCode.CANCELLED
            assert stopped.wait(10)

    def test_futures_and_with_call(self, channel: grpc.Channel) -> None:
        """Unary calls have future() and with_call(), with callbacks, status and trailing metadata."""
        done = threading.Event()
        with tenancy.scope("pr-42"):
            future = channel.unary_unary(method("unary_unary")).future(b"1")
            future.add_done_callback(lambda _: done.set())
            response, finished = channel.stream_unary(method("stream_unary")).with_call(iter([b"1"]))
        assert pairs([future.result(10)]) == pairs([response]) == [KEY]
        assert done.wait(10)
        assert finished.code() is grpc.StatusCode.OK
        assert finished.details() == ""
        assert finished.trailing_metadata() == ()

    def test_errors_pass(self, channel: grpc.Channel) -> None:
        """The caller gets grpc's own error."""
        with tenancy.scope("pr-42"), pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(method("missing"))(b"1")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


class TestTheTimeOfTheCall:
    """The key that is current when a call is made counts, whenever its responses are read."""

    @pytest.mark.parametrize("arity", ["unary_stream", "stream_stream"])
    @pytest.mark.parametrize("kind", ["channel", "traced"])
    def test_responses_may_be_read_elsewhere(self, arity: str, kind: str, request: pytest.FixtureRequest) -> None:
        """Responses that are read after the scope, or in another, belong to the key under which the call was made."""
        function = getattr(request.getfixturevalue(kind), arity)(method(arity))

        def made() -> Any:
            return function(iter([b"1"]) if arity == "stream_stream" else b"1")

        with tenancy.scope("pr-42"):
            after, other = made(), made()
        bare = made()
        assert dict(pairs(list(after)))["baggage"] == "sd-routing-key=pr-42"
        with tenancy.scope("pr-99"):
            assert dict(pairs(list(other)))["baggage"] == "sd-routing-key=pr-42"
            assert "baggage" not in dict(pairs(list(bare)))
            assert tenancy.routing_key() == "pr-99"

    @pytest.mark.parametrize("arity", ["stream_unary", "stream_stream"])
    @pytest.mark.parametrize("trusted", [True, False])
    def test_requests_are_produced_under_the_key(self, plain: grpc.Channel, arity: str, trusted: bool) -> None:
        """A generator of requests, which grpc runs in another thread, has the key of the call, also where the call itself must not."""
        channel = grpc.intercept_channel(plain, ClientInterceptor(trusted=trusted))
        keys = []

        def requests() -> Iterator[bytes]:
            for _ in range(3):
                keys.append(tenancy.routing_key())
                yield b"1"

        with tenancy.scope("pr-42"):
            call(channel, arity, requests=requests())
        call(channel, arity, requests=requests())
        assert keys == ["pr-42"] * 3 + [None] * 3


class TestEgress:
    """A key leaves only to hosts that are trusted."""

    @pytest.mark.parametrize("arity", ARITIES)
    @pytest.mark.parametrize("traces", [True, False])
    def test_an_untrusted_channel_gets_no_key(self, plain: grpc.Channel, arity: str, traces: bool) -> None:
        """Neither the current key nor one in the metadata goes out, also where OpenTelemetry injects baggage after us."""
        inner = otel_intercept_channel(plain, otel_client_interceptor(TracerProvider())) if traces else plain
        channel = grpc.intercept_channel(inner, ClientInterceptor(trusted=False))
        with attached(baggage.set_baggage("a", "1")), tenancy.scope("pr-42"):
            wire = sent(channel, [("baggage", "sd-routing-key=pr-42,a=1"), ("ot-baggage-sd-routing-key", "pr-42")], arity)
        assert [pair for pair in wire if pair[0] != "traceparent"] == [("baggage", "a=1")]
        assert [pair for pair in sent(channel, [KEY], arity) if pair[0] != "traceparent"] == []

    def test_a_target_is_judged(self, plain: grpc.Channel, caplog: pytest.LogCaptureFixture, counted: list[Any]) -> None:
        """Given the target, the setting decides; what is withheld is counted, and the first time is a warning that names the setting."""
        with tenancy.scope("pr-42"), caplog.at_level(logging.WARNING, "tenancy"):
            for _ in range(2):
                channel = grpc.intercept_channel(plain, ClientInterceptor(trusted="dns:///api.one.example:443"))
                assert sent(channel) == []
            assert sent(grpc.intercept_channel(plain, ClientInterceptor(trusted="orders:50051"))) == [KEY]
        assert counted == [("tenancy.egress.withheld", {"adapter": "grpc"})] * 2
        (warning,) = caplog.messages
        assert "api.one.example" in warning
        assert "TENANCY_TRUSTED_HOSTS" in warning
        tenancy.configure(trusted_hosts="*.one.example")
        with tenancy.scope("pr-42"):
            assert sent(grpc.intercept_channel(plain, ClientInterceptor(trusted="dns:///api.one.example:443"))) == [KEY]

    def test_what_is_untrusted_on_purpose_needs_no_warning(
        self, plain: grpc.Channel, caplog: pytest.LogCaptureFixture, counted: list[Any]
    ) -> None:
        """Where the user said so, it is only counted."""
        with tenancy.scope("pr-42"):
            assert sent(grpc.intercept_channel(plain, ClientInterceptor(trusted=False))) == []
        assert counted == [("tenancy.egress.withheld", {"adapter": "grpc"})]
        assert caplog.messages == []

    def test_nothing_is_counted_without_a_key(self, plain: grpc.Channel, counted: list[Any]) -> None:
        """Calls that have no key are not withheld anything."""
        assert sent(grpc.intercept_channel(plain, ClientInterceptor(trusted=False)), [("baggage", "a=1")]) == [("baggage", "a=1")]
        assert counted == []


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    found: list[Any] = []
    for module in ("tenancy.grpc.target", "tenancy.egress"):
        monkeypatch.setattr(f"{module}.count", lambda name, attributes=None: found.append((name, attributes)))
    return found


class TestOpenTelemetryInside:
    """OpenTelemetry's interceptor between ours and the wire writes the current baggage over what it finds."""

    @pytest.mark.parametrize("arity", ARITIES)
    def test_a_forwarded_key_survives(self, traced: grpc.Channel, arity: str) -> None:
        """A key that only the call's metadata has still goes out."""
        with attached(baggage.set_baggage("a", "1")):
            assert dict(sent(traced, [KEY], arity))["baggage"] == "sd-routing-key=pr-42,a=1"

    @pytest.mark.parametrize("arity", ARITIES)
    def test_the_key_stays_first(self, traced: grpc.Channel, arity: str) -> None:
        """The current key goes before baggage that was current earlier."""
        with attached(baggage.set_baggage("a", "1")), tenancy.scope("pr-42"):
            assert dict(sent(traced, None, arity))["baggage"] == "sd-routing-key=pr-42,a=1"

    def test_its_generator_leaves_nothing_current(self, traced: grpc.Channel) -> None:
        """The span that it keeps open between two responses is not current for the reader."""
        before = otel.get_current()
        responses = traced.unary_stream(method("unary_stream"))(b"1")
        next(responses)
        assert otel.get_current() == before
        responses.close()


def test_switched_off_it_does_nothing(plain: grpc.Channel) -> None:
    """With tenancy switched off call details and requests pass through as they are."""
    tenancy.configure(enabled=False)
    interceptor = ClientInterceptor()
    given, requests = object(), iter([b"1"])
    with tenancy.scope("pr-42"):
        assert interceptor.intercept_stream_stream(lambda *call: call, given, requests) == (given, requests)
        assert sent(grpc.intercept_channel(plain, interceptor), [KEY]) == [KEY]


def test_details_of_somebody_elses_making(channel: grpc.Channel) -> None:
    """Call details of another class keep what they have, and what they lack stays lacking, for grpc to fill in."""

    class Details(grpc.ClientCallDetails):
        method = "/a/b"
        timeout = 3.0
        metadata = (("x", "1"),)

    with tenancy.scope("pr-42"):
        details = ClientInterceptor().intercept_unary_unary(lambda details, _: details, Details(), b"")
    assert isinstance(details, grpc.ClientCallDetails)
    assert (details.method, details.timeout, details.metadata) == ("/a/b", 3.0, (("x", "1"), KEY))
    assert not hasattr(details, "wait_for_ready")


def test_without_a_key_nothing_is_touched() -> None:
    """Baseline calls without metadata cost next to nothing: their details pass through as they are."""

    class Details(NamedTuple):
        metadata: Any = None

    details = Details()
    assert ClientInterceptor().intercept_unary_unary(lambda given, _: given, details, b"") is details


def test_what_a_handler_sees_is_of_grpcs_shape() -> None:
    """Rewritten metadata has entries with key and value, of which every one but ours is as it was."""
    found = metadata.rewritten([("x-bin", b"\x00"), ("baggage", "a=1,sd-routing-key=x")], None)
    assert found == (("x-bin", b"\x00"), ("baggage", "a=1"))
    assert (found[1].key, found[1].value) == ("baggage", "a=1")
