from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import flask
import httpx
import pytest
from flask import Flask, Response, copy_current_request_context, request, stream_with_context
from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix

import tenancy
from tenancy.context import routing_key
from tenancy.http import flask as adapter
from tenancy.http.flask import TenancyMiddleware
from tenancy.http.reception import Reception
from tests.http.servers import Work
from tests.http.test_wsgi import WSGIContract, contract, serving_wsgi, wsgi_server

__all__ = ["wsgi_server"]  # a fixture

KEY = {"baggage": "sd-routing-key=pr-42"}


@pytest.fixture(autouse=True)
def _uninstrumented() -> Iterator[None]:
    before = otel.get_current()
    yield
    adapter.uninstrument()
    assert otel.get_current() == before


# The contract


def views(app: Flask, work: Work) -> Flask:
    @app.get("/")
    def handle() -> str:
        work.run(request.headers["x-body"])
        return "ok"

    def chunks(name: str) -> Iterator[str]:
        yield "first"
        work.run(name)
        yield "second"

    @app.get("/stream")
    def stream() -> Response:
        return Response(chunks(request.headers["x-body"]))

    @app.get("/stream-with-context")
    def stream_in_context() -> Response:
        def with_context() -> Iterator[str]:
            yield "first"
            work.run(request.headers["x-body"])
            yield "second"

        return Response(stream_with_context(with_context()))

    return app


def wrapped(app: Flask) -> Flask:
    app.wsgi_app = TenancyMiddleware(app.wsgi_app)  # type: ignore[method-assign]
    return app


def theirs(app: Flask) -> Flask:
    FlaskInstrumentor.instrument_app(app, tracer_provider=TracerProvider())
    return app


def alone(work: Work) -> Any:
    return wrapped(views(Flask(__name__), work))


def instrumented(work: Work) -> Any:
    adapter.instrument()
    return views(Flask(__name__), work)


def theirs_last(work: Work) -> Any:
    return theirs(wrapped(views(Flask(__name__), work)))


def theirs_first(work: Work) -> Any:
    return wrapped(theirs(views(Flask(__name__), work)))


def both_instrumented(work: Work) -> Any:
    adapter.instrument()
    FlaskInstrumentor().instrument(tracer_provider=TracerProvider())
    return views(flask.Flask(__name__), work)


def both_instrumented_theirs_first(work: Work) -> Any:
    FlaskInstrumentor().instrument(tracer_provider=TracerProvider())
    adapter.instrument()
    return views(flask.Flask(__name__), work)


def under_their_middleware(work: Work) -> Any:
    return OpenTelemetryMiddleware(theirs_last(work), tracer_provider=TracerProvider())


@pytest.fixture(scope="class")
def flask_undone() -> Iterator[None]:
    yield
    adapter.uninstrument()
    if FlaskInstrumentor().is_instrumented_by_opentelemetry:
        FlaskInstrumentor().uninstrument()


@pytest.mark.usefixtures("flask_undone", "wsgi_server")
class FlaskContract(WSGIContract):
    @pytest.fixture(autouse=True)
    def _uninstrumented(self) -> None:
        """The application is the same for all tests of the class."""


BUILDS: dict[str, tuple[Callable[[Work], Any], tuple[str, ...]]] = {
    "Alone": (alone, ("/", "/stream-with-context")),
    "Instrumented": (instrumented, ("/stream",)),
    "TheirsLast": (theirs_last, ("/stream", "/stream-with-context")),
    "TheirsFirst": (theirs_first, ("/", "/stream-with-context")),
    "BothInstrumented": (both_instrumented, ("/stream-with-context",)),
    "BothInstrumentedTheirsFirst": (both_instrumented_theirs_first, ("/stream",)),
    "UnderTheirMiddleware": (under_their_middleware, ("/stream",)),
}

for _name, (_build, _paths) in BUILDS.items():
    for _path in _paths:
        _title = f"Test{_name}{_path[1:].title().replace('-', '')}"
        _leaves_nothing = _build is not under_their_middleware
        globals()[_title] = contract(_title[4:], _build, FlaskContract, path=_path, leaves_nothing=_leaves_nothing)


# One application


def service(app: Flask) -> Flask:
    @app.get("/")
    def read() -> str:
        return str(tenancy.routing_key())

    @app.get("/async")
    async def read_async() -> str:
        return str(tenancy.routing_key())

    @app.get("/headers")
    def headers() -> dict[str, str]:
        return {name.lower(): value for name, value in request.headers.items()}

    return app


def read(app: Any, headers: Any = KEY, path: str = "/") -> str:
    with httpx.Client(transport=httpx.WSGITransport(app), base_url="http://app") as client:
        return client.get(path, headers=headers).text


@pytest.fixture
def admissions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys that were admitted, one entry for each decision."""
    decided: list[str] = []
    original = Reception.receive

    def receive(self: Reception, headers: Any, reading: Any, *, nested: bool = False, **more: Any) -> Any:
        received = original(self, headers, reading, nested=nested, **more)
        if received.refusal is None and not nested:
            decided.append(str(routing_key(received.context)))
        return received

    monkeypatch.setattr(Reception, "receive", receive)
    return decided


def test_everything_of_a_request_sees_the_key() -> None:
    """Hooks before and after, teardown functions, error handlers, templates, and what runs when the response is closed."""
    app = wrapped(Flask(__name__))
    seen: dict[str, str | None] = {}

    def note(name: str) -> Callable[..., Any]:
        def noted(value: Any = None) -> Any:
            seen[name] = tenancy.routing_key()
            return value

        return noted

    app.before_request(note("before_request"))
    app.after_request(note("after_request"))
    app.teardown_request(note("teardown_request"))
    app.teardown_appcontext(note("teardown_appcontext"))
    app.context_processor(lambda: {"key": tenancy.routing_key()})

    @app.errorhandler(LookupError)
    def failed(error: LookupError) -> str:
        note("errorhandler")()
        return flask.render_template_string("{{ key }}")

    @app.get("/")
    def view() -> str:
        response = flask.make_response("ok")
        response.call_on_close(note("call_on_close"))
        flask.after_this_request(note("after_this_request"))
        raise LookupError

    @app.get("/closed")
    def closed() -> Response:
        response = flask.make_response("ok")
        response.call_on_close(note("call_on_close"))
        return response

    assert read(app) == "pr-42"
    assert read(app, path="/closed") == "ok"
    assert seen == dict.fromkeys(
        [
            "before_request",
            "after_request",
            "after_this_request",
            "teardown_request",
            "teardown_appcontext",
            "errorhandler",
            "call_on_close",
        ],
        "pr-42",
    )


def test_flasks_own_test_client() -> None:
    """It is served as by a server, also where it keeps the request's context for the test."""
    adapter.instrument()
    client = service(Flask(__name__)).test_client()
    assert client.get("/", headers=KEY).text == "pr-42"
    with client:
        assert client.get("/", headers=KEY, buffered=True).text == "pr-42"
        assert request.headers["baggage"] == "sd-routing-key=pr-42"
        assert tenancy.routing_key() is None


def test_views_that_are_coroutines() -> None:
    """They have the key."""
    assert read(wrapped(service(Flask(__name__))), path="/async") == "pr-42"


def test_threads_of_a_view() -> None:
    """Flask's own way of handing its context to a thread hands on no key; a scope does."""
    app = wrapped(Flask(__name__))

    @app.get("/")
    def view() -> list[str | None]:
        keys: list[str | None] = []

        @copy_current_request_context
        @tenancy.scope(tenancy.routing_key())
        def work() -> None:
            keys.append(tenancy.routing_key())

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        return keys

    assert read(app) == '["pr-42"]\n'


def test_a_view_sees_what_was_admitted() -> None:
    """Its headers have one entry of one dialect, or none where the key was refused."""
    app = service(Flask(__name__))
    app.wsgi_app = TenancyMiddleware(app.wsgi_app, accept=lambda key: key == "pr-42")  # type: ignore[method-assign]
    with httpx.Client(transport=httpx.WSGITransport(app), base_url="http://app") as client:
        for key, told in (("pr-42", "sd-routing-key=pr-42,a=1"), ("pr-7", "a=1")):
            seen = client.get("/headers", headers={"ot-baggage-sd-routing-key": key, "baggage": "a=1"}).json()
            assert seen["baggage"] == told
            assert "ot-baggage-sd-routing-key" not in seen


def test_a_stream_that_the_caller_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the generator cleans up has the key, on a real server, and the next request in the thread has none."""
    app = service(Flask(__name__))
    keys: list[str | None] = []
    closed = threading.Event()

    @app.get("/stream")
    def stream() -> Response:
        def chunks() -> Iterator[bytes]:
            try:
                while True:
                    yield b"x" * 65536
            finally:
                keys.append(tenancy.routing_key())
                closed.set()

        return Response(stream_with_context(chunks()))

    with serving_wsgi(wrapped(app), "werkzeug") as url, httpx.Client() as client:
        with client.stream("GET", url + "/stream", headers=KEY) as response:
            next(response.iter_raw())
        assert closed.wait(10)
        assert client.get(url).text == "None"
    assert keys == ["pr-42"]


# instrument()


def test_applications_before_and_after() -> None:
    """Every application has the middleware: made before or after, serving already or not."""
    before, serving = service(Flask(__name__)), service(Flask(__name__))
    assert read(serving) == "None"
    adapter.instrument()
    for app in (before, serving, service(Flask(__name__))):
        assert read(app) == "pr-42"


@pytest.mark.parametrize(
    "wrap",
    [
        lambda inner: TenancyMiddleware(inner),
        lambda inner: ProxyFix(TenancyMiddleware(inner)),
        lambda inner: TenancyMiddleware(ProxyFix(inner)),
        lambda inner: DispatcherMiddleware(TenancyMiddleware(inner), {"/other": service(Flask("other"))}),
        lambda inner: lambda environ, start_response: TenancyMiddleware(inner)(environ, start_response),
    ],
)
@pytest.mark.parametrize("with_theirs", [False, True])
def test_it_is_there_once(wrap: Any, with_theirs: bool, admissions: list[str]) -> None:
    """However the middleware came to an application, it decides once."""
    adapter.instrument()
    app = service(Flask(__name__))
    app.wsgi_app = wrap(app.wsgi_app)
    if with_theirs:
        theirs(app)
    assert read(app) == "pr-42"
    assert read(TenancyMiddleware(app)) == "pr-42"
    assert admissions == ["pr-42", "pr-42"]


def test_the_applications_own_middleware_has_the_say(admissions: list[str]) -> None:
    """Its arguments count, wherever it stands inside, and another application's do not count for this one."""
    tenancy.configure(accept="none")
    adapter.instrument()
    own = service(Flask(__name__))
    own.wsgi_app = theirs_closure(TenancyMiddleware(own.wsgi_app, accept="all"))  # type: ignore[method-assign]
    theirs(own)
    assert read(own) == "pr-42"
    main = service(Flask(__name__))
    main.wsgi_app = DispatcherMiddleware(main.wsgi_app, {"/own": own})  # type: ignore[method-assign]
    assert read(main) == "None"
    assert read(main, path="/own/") == "None"
    assert admissions == ["pr-42", "None", "None"]


def theirs_closure(inner: Any) -> Any:
    def middleware(environ: Any, start_response: Any) -> Any:
        return inner(environ, start_response)

    return middleware


def test_an_application_beside_that_has_its_own_is_not_this_one(admissions: list[str]) -> None:
    """A middleware that chooses between two applications does not pass for one of ours."""
    other = TenancyMiddleware(service(Flask("other")))
    app = service(Flask(__name__))
    plain = app.wsgi_app

    def choosing(environ: Any, start_response: Any) -> Any:
        return (other if environ["PATH_INFO"].startswith("/other") else plain)(environ, start_response)

    app.wsgi_app = choosing  # type: ignore[method-assign]
    adapter.instrument()
    assert read(app) == "pr-42"
    assert admissions == ["pr-42"]


@pytest.mark.parametrize("order", ["ours first", "theirs first", "theirs first, one application"])
def test_beside_opentelemetry(order: str, admissions: list[str]) -> None:
    """In either order, whether it instruments the process or one application; its span has the key and the verdict's reason."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    instrumentor = FlaskInstrumentor()
    if order == "ours first":
        adapter.instrument()
    if order != "theirs first, one application":
        instrumentor.instrument(tracer_provider=provider)
    try:
        app = service(flask.Flask(__name__))
        if order == "theirs first, one application":
            FlaskInstrumentor.instrument_app(app, tracer_provider=provider)
        adapter.instrument()
        assert read(app, {"ot-baggage-sd-routing-key": "pr-42"}) == "pr-42"
        assert "cannot be used" in read(app, {"baggage": "sd-routing-key=PR_42"})
        assert read(app, {}) == "None"
        assert admissions == ["pr-42", "None"]
        served, unkeyed = (span.attributes or {} for span in exporter.get_finished_spans() if span.kind is trace.SpanKind.SERVER)
        assert served["tenancy.routing_key"] == "pr-42"
        assert served["tenancy.reason"] == "pr-42: every key is accepted"
        assert "tenancy.routing_key" not in unkeyed
    finally:
        if order != "theirs first, one application":
            instrumentor.uninstrument()


def test_settings_may_follow() -> None:
    """What is configured before the first request counts, and a mistake in it is the first request's error."""
    adapter.instrument()
    app = service(Flask(__name__))
    tenancy.configure(response_header="a b")
    with pytest.raises(tenancy.ConfigurationError, match="TENANCY_RESPONSE_HEADER"):
        read(app)
    tenancy.configure(accept="none")
    assert read(app) == "None"


def test_switched_off_nothing_is_patched() -> None:
    """Every attribute is the original, and the middleware is the application itself."""
    originals = Flask.__call__, Flask.wsgi_app
    tenancy.configure(enabled=False)
    adapter.instrument()
    assert (Flask.__call__, Flask.wsgi_app) == originals
    app = service(Flask(__name__))
    inner = app.wsgi_app
    assert TenancyMiddleware(inner) is inner
    assert read(app) == "None"


def test_it_can_be_undone() -> None:
    """After uninstrument() the attribute is the original again, for applications that serve already, too; doing it twice is nothing."""
    original = Flask.__call__
    adapter.instrument()
    adapter.instrument()
    app = service(Flask(__name__))
    assert read(app) == "pr-42"
    assert Flask.__call__ is not original
    adapter.uninstrument()
    adapter.uninstrument()
    assert Flask.__call__ is original
    assert read(app) == "None"


def test_applications_are_not_kept_alive() -> None:
    """What is remembered about one goes with it."""
    import gc
    import weakref

    adapter.instrument()
    app = service(Flask(__name__))
    assert read(app) == "pr-42"
    gone = weakref.ref(app)
    del app
    gc.collect()
    assert gone() is None


def test_without_flask_the_error_names_the_extra() -> None:
    """The adapter tells what to install."""
    code = "import sys; sys.modules['flask'] = None\nimport tenancy.http.flask"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "pip install 'request-tenancy[flask]'" in result.stderr
