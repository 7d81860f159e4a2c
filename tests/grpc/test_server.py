from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from opentelemetry import baggage, propagate
from opentelemetry import context as otel
from opentelemetry.context import Context
from opentelemetry.instrumentation.grpc import server_interceptor as otel_server_interceptor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import tenancy
from tenancy.grpc import ServerInterceptor
from tenancy.grpc.steps import Step, responses
from tenancy.routes import LiveRoutes
from tenancy.routes.sources.file import FileSource
from tenancy.testing import MemoryRoutes
from tests.grpc.wire import ARITIES, Service, call, connected, method, mirror, pairs
from tests.routes.test_live import document

KEY = ("baggage", "sd-routing-key=pr-42")


def handle(
    behavior: Callable[..., Any], *interceptors: Any, metadata: Any = None, arity: str = "unary_unary", **more: Any
) -> list[bytes]:
    """Serve one call with one handler."""
    with connected(Service(only=(arity, behavior)), *interceptors, **more) as channel:
        return call(channel, arity, metadata, name="only")


def key_of(request: Any, context: Any) -> bytes:
    return (tenancy.routing_key() or "none").encode()


def rejected(metadata: Any, *interceptors: Any, arity: str = "unary_unary") -> tuple[grpc.StatusCode, str]:
    def behavior(request: Any, context: Any) -> Any:
        raise AssertionError("the handler must not run")

    with pytest.raises(grpc.RpcError) as caught:
        handle(behavior, *interceptors, metadata=metadata, arity=arity)
    return caught.value.code(), caught.value.details()


class TestAdmission:
    """Which key a handler gets."""

    @pytest.mark.parametrize("arity", ARITIES)
    def test_a_malformed_key_is_an_invalid_argument(self, arity: str) -> None:
        """The caller is told what is wrong, and the handler does not run."""
        code, details = rejected([("baggage", "sd-routing-key=PR_42")], ServerInterceptor(), arity=arity)
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "'PR_42' is not a routing key" in details

    def test_or_it_is_ignored(self) -> None:
        """By policy the call is the baseline's instead, and the handler does not see what was sent."""
        interceptor = ServerInterceptor(on_malformed="ignore")
        with connected(mirror(), interceptor) as channel:
            assert pairs(call(channel, "unary_unary", [("baggage", "sd-routing-key=PR_42,a=1")])) == [("baggage", "a=1")]
        assert handle(key_of, ServerInterceptor(on_malformed="ignore"), metadata=[("baggage", "sd-routing-key=PR_42")]) == [b"none"]
        with pytest.raises(tenancy.ConfigurationError, match="on_malformed is 'drop'"):
            ServerInterceptor(on_malformed="drop")  # type: ignore[arg-type]

    @pytest.mark.parametrize("arity", ARITIES)
    def test_a_refused_key_is_not_there(self, arity: str) -> None:
        """A key that is not accepted is neither current nor in the metadata that a handler might forward."""
        given = [("x-bin", b"\x00"), ("baggage", "sd-routing-key=pr-42,a=1"), ("uberctx-sd-routing-key", "pr-42")]
        with connected(mirror(), ServerInterceptor(accept="none")) as channel:
            assert pairs(call(channel, arity, given)) == [("x-bin", "00"), ("baggage", "a=1")]
        assert handle(key_of, ServerInterceptor(accept="none"), metadata=given) == [b"none"]

    def test_an_ambiguous_key_is_brought_to_one(self) -> None:
        """Named twice, the last counts, and is the only one that the handler sees."""
        given = [("baggage", "sd-routing-key=pr-1"), ("baggage", "a=1,sd-routing-key=pr-2")]
        with connected(mirror(), ServerInterceptor()) as channel:
            assert pairs(call(channel, "unary_unary", given)) == [("baggage", "sd-routing-key=pr-2,a=1")]

    def test_the_table_decides(self, tmp_path: Path) -> None:
        """With a route source the keys that its table knows are accepted."""
        path = tmp_path / "routes.json"
        path.write_text(document("pr-42"))
        tenancy.configure(routes=f"file://{path}")
        assert handle(key_of, ServerInterceptor(), metadata=[KEY]) == [b"pr-42"]
        assert handle(key_of, ServerInterceptor(), metadata=[("baggage", "sd-routing-key=pr-43")]) == [b"none"]
        assert handle(key_of, ServerInterceptor(accept="all"), metadata=[("baggage", "sd-routing-key=pr-43")]) == [b"pr-43"]


class TestServicerContext:
    """The context that a handler gets."""

    def test_it_is_grpcs_own_where_nothing_is_hidden(self) -> None:
        """A clean call's handler gets the very object that grpc made."""
        kinds = []
        handle(lambda request, context: kinds.append(type(context)) or b"", ServerInterceptor(), metadata=[KEY])
        handle(lambda request, context: kinds.append(type(context)) or b"", ServerInterceptor())
        assert kinds[0] is kinds[1]
        assert kinds[0].__module__.startswith("grpc")

    def test_it_is_whole_where_something_is_hidden(self) -> None:
        """The stand-in is a ServicerContext with all methods, and what is set on it reaches the caller."""

        def behavior(request: Any, context: Any) -> bytes:
            assert isinstance(context, grpc.ServicerContext)
            assert all(callable(getattr(context, name)) for name in grpc.ServicerContext.__abstractmethods__)
            assert context.is_active()
            assert weakref.ref(context)() is context
            assert "127.0.0.1" in context.peer()
            assert {entry.key: entry.value for entry in context.invocation_metadata()}["x"] == "1"
            context.user = "me"
            assert context.user == "me"
            del context.user
            context.send_initial_metadata((("first", "1"),))
            context.set_trailing_metadata((("last", "2"),))
            context.set_code(grpc.StatusCode.NOT_FOUND)
            context.set_details("nothing")
            return b""

        service = Service(only=("unary_unary", behavior))
        with connected(service, ServerInterceptor(accept="none")) as channel, pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(method("only"))(b"", metadata=(KEY, ("x", "1")))
        error = caught.value
        assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "nothing")
        assert ("first", "1") in [tuple(entry) for entry in error.initial_metadata()]
        assert ("last", "2") in [tuple(entry) for entry in error.trailing_metadata()]

    def test_abort_passes(self) -> None:
        """A handler that aborts ends the call with its own status."""
        with pytest.raises(grpc.RpcError) as caught:
            handle(lambda request, context: context.abort(grpc.StatusCode.ABORTED, "stop"), ServerInterceptor(), metadata=[KEY])
        assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.ABORTED, "stop")


class TestOpenTelemetry:
    """OpenTelemetry's interceptor, on either side of ours."""

    @pytest.mark.parametrize("inside", [True, False])
    @pytest.mark.parametrize("arity", ["unary_unary", "unary_stream"])
    def test_a_refused_key_is_not_carried_on(self, inside: bool, arity: str) -> None:
        """What a handler would inject downstream has other people's baggage, and no refused key."""
        theirs, ours = otel_server_interceptor(TracerProvider()), ServerInterceptor(accept="none")

        def one(request: Any, context: Any) -> bytes:
            carrier: dict[str, str] = {}
            propagate.inject(carrier)
            assert "traceparent" in carrier
            forwarded = tenancy.inject([tuple(entry) for entry in context.invocation_metadata()])
            assert "pr-42" not in str(forwarded)
            return carrier["baggage"].encode()

        def many(request: Any, context: Any) -> Iterator[bytes]:
            yield one(request, context)
            yield one(request, context)

        interceptors = [ours, theirs] if inside else [theirs, ours]
        metadata = [("baggage", "a=1,sd-routing-key=pr-42")]
        found = handle(many if arity == "unary_stream" else one, *interceptors, metadata=metadata, arity=arity)
        assert set(found) == {b"a=1"}

    @pytest.mark.parametrize("arity", ["unary_unary", "unary_stream"])
    def test_the_span_tells(self, arity: str, tmp_path: Path) -> None:
        """OpenTelemetry's span gets the key and the verdict, where this process knows who it is."""
        path = tmp_path / "routes.json"
        path.write_text(document("pr-42"))
        tenancy.configure(routes=f"file://{path}", role="baseline", workload="shop/orders")
        exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(exporter))

        def many(request: Any, context: Any) -> Iterator[bytes]:
            yield key_of(request, context)

        for value in ("pr-42", "pr-43"):
            handle(
                many if arity == "unary_stream" else key_of,
                otel_server_interceptor(provider),
                ServerInterceptor(),
                metadata=[("baggage", f"sd-routing-key={value}")],
                arity=arity,
            )
        known, refused = (dict(span.attributes or {}) for span in exporter.get_finished_spans())
        assert known["tenancy.routing_key"] == "pr-42"
        assert known["tenancy.verdict"] == "skip"
        assert "forks shop/orders" in str(known["tenancy.reason"])
        assert "tenancy.routing_key" not in refused
        assert "pr-43 is not accepted" in str(refused["tenancy.reason"])


def unreadable() -> MemoryRoutes:
    """A route table whose source comes up later."""
    routes = MemoryRoutes({"shop/orders": []})
    routes.lose("it is down")
    return routes


class TestWithoutATable:
    """Calls that come before the route table was read."""

    def test_keyed_calls_are_unavailable_and_others_are_served(self, caplog: pytest.LogCaptureFixture) -> None:
        """A call with a key is turned away at once, with the details in our log; one without is served; when the table comes, both are."""
        routes = unreadable()
        interceptor = ServerInterceptor(routes=routes)
        code, details = rejected([KEY], interceptor)
        assert code is grpc.StatusCode.UNAVAILABLE
        assert "try again" in details
        assert "it is down" not in details
        assert "it is down" in caplog.text
        assert handle(key_of, interceptor) == [b"none"]
        routes.restore()
        assert handle(key_of, interceptor, metadata=[KEY]) == [b"none"]  # the table does not know it

    def test_unkeyed_calls_do_not_queue_behind_keyed_ones(self) -> None:
        """However many calls with a key come to a small pool, none of them holds up one without."""
        tenancy.configure(routes_deadline=30)
        service = Service(only=("unary_unary", key_of))
        with connected(service, ServerInterceptor(routes=unreadable()), workers=1) as channel:
            function = channel.unary_unary(method("only"))
            waiting = [function.future(b"", metadata=(KEY,)) for _ in range(20)]
            assert function(b"", timeout=5) == b"none"
            assert {future.code() for future in waiting} == {grpc.StatusCode.UNAVAILABLE}

    def test_a_source_that_is_not_there_does_not_stop_the_server(self, tmp_path: Path) -> None:
        """A server starts and serves where the file of its route table is missing."""
        tenancy.configure(routes=f"file://{tmp_path}/missing.json")
        assert handle(key_of, ServerInterceptor()) == [b"none"]
        assert rejected([KEY], ServerInterceptor())[0] is grpc.StatusCode.UNAVAILABLE

    def test_a_key_that_needs_no_table_is_served(self) -> None:
        """Where every key is accepted the table is only asked for the verdict, and its absence fails nothing."""
        tenancy.configure(role="baseline", workload="shop/orders")
        interceptor = ServerInterceptor(accept="all", routes=unreadable())
        assert handle(key_of, interceptor, metadata=[KEY]) == [b"pr-42"]


class TestScope:
    """While a handler runs, and after it."""

    def test_each_step_has_the_key_whichever_thread_takes_it(self) -> None:
        """A response generator keeps its key, and the span that it opens, when its steps run in different threads."""
        mark = otel.create_key("mark")

        def body() -> Iterator[Any]:
            token = otel.attach(otel.set_value(mark, "open"))
            for _ in range(3):
                yield tenancy.routing_key(), otel.get_value(mark)
            otel.detach(token)

        with tenancy.scope("pr-42"):
            steps = responses(body(), Step(otel.get_current()))

        def take() -> Any:
            with tenancy.scope("pr-99"):
                result = next(steps)
                assert tenancy.routing_key() == "pr-99"
                assert otel.get_value(mark) is None
                return result

        for _ in range(3):
            with ThreadPoolExecutor(1) as pool:
                assert pool.submit(take).result() == ("pr-42", "open")

    def test_a_cancelled_stream_ends_under_its_key(self) -> None:
        """The finally of a generator that the caller stops reading still has the key, and nothing is left behind in the thread."""
        ended: list[Any] = []
        done = threading.Event()

        def behavior(request: Any, context: Any) -> Iterator[bytes]:
            try:
                while True:
                    yield b"more"
            finally:
                ended.append(tenancy.routing_key())
                done.set()

        with connected(Service(only=("unary_stream", behavior)), ServerInterceptor(), workers=1) as channel:
            stream = channel.unary_stream(method("only"))(b"", metadata=(KEY,))
            assert next(stream) == b"more"
            stream.cancel()
            for _ in range(100):
                gc.collect()
                if done.wait(0.1):
                    break
        assert ended == ["pr-42"]

    @pytest.mark.parametrize("arity", ARITIES)
    @pytest.mark.parametrize("end", ["returns", "raises", "aborts"])
    def test_nothing_stays_current_in_the_pool(self, arity: str, end: str) -> None:
        """However a handler ends, its thread is left as it was."""

        def one(request: Any, context: Any) -> bytes:
            if end == "aborts":
                context.abort(grpc.StatusCode.ABORTED, "stop")
            if end == "raises":
                raise LookupError("the handler failed")
            return b""

        def many(request: Any, context: Any) -> Iterator[bytes]:
            yield b"first"
            yield one(request, context)

        found = []

        def make(pool: ThreadPoolExecutor, interceptors: Any) -> grpc.Server:
            found.append(pool)
            return grpc.server(pool, interceptors=interceptors)

        behavior = many if arity.endswith("stream") else one
        with connected(Service(only=(arity, behavior)), ServerInterceptor(), make=make, workers=1) as channel:
            if end == "returns":
                call(channel, arity, [KEY], name="only")
            else:
                with pytest.raises(grpc.RpcError):
                    call(channel, arity, [KEY], name="only")
            assert found[0].submit(otel.get_current).result(10) == Context()

    def test_ambient_baggage_of_others_stays(self) -> None:
        """What an interceptor outside of ours made current stays so, all but its key."""

        class Outer(grpc.ServerInterceptor):  # type: ignore[type-arg]
            def intercept_service(self, continuation: Any, details: Any) -> Any:
                otel.attach(baggage.set_baggage("sd-routing-key", "pr-13", baggage.set_baggage("a", "1")))
                return continuation(details)

        def behavior(request: Any, context: Any) -> bytes:
            return ",".join(f"{name}={value}" for name, value in baggage.get_all().items()).encode()

        assert handle(behavior, Outer(), ServerInterceptor(), metadata=[KEY]) == [b"sd-routing-key=pr-42,a=1"]
        assert handle(behavior, Outer(), ServerInterceptor()) == [b"a=1"]


def test_handlers_that_push_their_responses() -> None:
    """A handler that sends by callback, as grpc's experimental marker asks for, runs under the key and gets its callback."""

    def behavior(request: Any, context: Any, send: Callable[[Any], None]) -> None:
        send(key_of(request, context))
        send(None)

    behavior.experimental_non_blocking = True  # type: ignore[attr-defined]
    assert handle(behavior, ServerInterceptor(), metadata=[KEY], arity="unary_stream") == [b"pr-42"]


def test_handlers_with_a_pool_of_their_own() -> None:
    """A handler that names its own thread pool still runs there."""
    with ThreadPoolExecutor(1, thread_name_prefix="own") as pool:

        def behavior(request: Any, context: Any) -> bytes:
            return threading.current_thread().name.encode() + b" " + key_of(request, context)

        behavior.experimental_thread_pool = pool  # type: ignore[attr-defined]
        assert handle(behavior, ServerInterceptor(), metadata=[KEY]) == [b"own_0 pr-42"]


def test_methods_that_nobody_serves() -> None:
    """A method without a handler is unimplemented, as ever."""
    with connected(Service(), ServerInterceptor()) as channel, pytest.raises(grpc.RpcError) as caught:
        call(channel, "unary_unary", [KEY])
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_switched_off_the_handler_is_the_original() -> None:
    """With tenancy switched off the interceptor returns what it is given, and reads no settings that it would trip over."""
    tenancy.configure(enabled=False)
    handler = object()
    assert ServerInterceptor(accept="known").intercept_service(lambda details: handler, None) is handler


def test_known_needs_a_source() -> None:
    """Accepting only known keys without a route source is an error at start, not at the first call."""
    with pytest.raises(tenancy.ConfigurationError, match="no route source"):
        ServerInterceptor(accept="known")


def test_the_file_source_is_followed(tmp_path: Path) -> None:
    """A key that is added to the table is accepted from then on."""
    path = tmp_path / "routes.json"
    path.write_text(document("pr-1"))
    routes = LiveRoutes(FileSource(path), interval=0.02)
    interceptor = ServerInterceptor(routes=routes)
    assert handle(key_of, interceptor, metadata=[KEY]) == [b"none"]
    path.write_text(document("pr-42", version=2))
    routes.refresh()
    assert handle(key_of, interceptor, metadata=[KEY]) == [b"pr-42"]
    routes.close()


def test_nothing_of_a_call_is_kept() -> None:
    """An interceptor inside of ours that makes a handler for each call, as OpenTelemetry's does, leaves no call's metadata in memory."""
    interceptor = ServerInterceptor()
    secrets = [type("Secret", (), {})() for _ in range(20)]
    kept = [weakref.ref(secret) for secret in secrets]
    details = SimpleNamespace(method="/tenancy.Test/call", invocation_metadata=())
    while secrets:
        secret = secrets.pop()
        made = grpc.unary_unary_rpc_method_handler(lambda request, servicer, secret=secret: repr(secret))
        interceptor.intercept_service(lambda _, made=made: made, details)
    del secret, made
    gc.collect()
    assert [reference() for reference in kept if reference() is not None] == []
    one = grpc.unary_unary_rpc_method_handler(lambda request, servicer: request)
    other = SimpleNamespace(method="/tenancy.Test/other", invocation_metadata=())
    assert interceptor.intercept_service(lambda _: one, other) is interceptor.intercept_service(lambda _: one, other)
