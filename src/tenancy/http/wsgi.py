"""
WSGI: middleware for Flask, Bottle, Pyramid and every other WSGI application (https://peps.python.org/pep-3333/).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from ..baggage import ABSENT
from ..carrier import header_name
from ..config import Accept, settings, switched_on
from ..context import Step
from ..routes.live import LiveRoutes
from ._responses import HeaderPairs
from .edge import EdgeRequest, Resolver
from .reception import OnMalformed, Reception, Refusal, Reply

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["TenancyMiddleware"]

# Stands in the environment while one of us is at work, so that an application inside with a middleware of its own does not decide again.
MARK = "tenancy.admitted"


class TenancyMiddleware:
    """
    Makes the routing key of each request current while the application serves it: in its handlers, in every step of a body that it
    yields, and when that body is closed.

    ``app = TenancyMiddleware(app)``; of a Flask application ``app.wsgi_app = TenancyMiddleware(app.wsgi_app)``. Where tenancy is switched
    off it is the inner application itself.

    A key that is not accepted, and one that is malformed, is removed from the headers that the application sees. A middleware inside of
    another decides again only if it has an *accept* of its own, and never asks its *edge*. No request waits for the route table, which
    would hold a thread: it is read when the middleware is made and followed from then on, and until it could be read requests with a key
    are answered with 503.

    Args:
        app: The inner application.
        accept: Which keys are accepted; default the setting ``accept``.
        on_malformed: What becomes of a request whose key breaks the grammar: ``reject`` answers 400; ``ignore`` serves it without a key.
        response_header: The name of a response header that tells who served, and why; default the setting ``response_header``, which is
            none.
        cache_headers: Whether responses to requests with a key are marked as not cacheable for others; default the setting
            ``cache_headers``, which is true.
        edge: Where a key is looked for in requests that carry none, such as ``"host:{key}.preview.example.com"``; default the setting
            ``edge``, which is nowhere.
        routes: The live route table; default the one of the settings.

    Raises:
        ConfigurationError: If an argument cannot be used.
        IdentityError: If tenancy is switched off in a sandbox.
    """

    if not TYPE_CHECKING:

        def __new__(cls, app, **_):
            return super().__new__(cls) if switched_on() else app

    def __init__(
        self,
        app: WSGIApplication,
        *,
        accept: Accept | None = None,
        on_malformed: OnMalformed = "reject",
        response_header: str | None = None,
        cache_headers: bool | None = None,
        edge: Iterable[Resolver] | Resolver | None = None,
        routes: LiveRoutes | None = None,
    ) -> None:
        self.app = app
        self._reception = Reception(
            "wsgi",
            accept=accept,
            on_malformed=on_malformed,
            response_header=response_header,
            cache_headers=cache_headers,
            edge=edge,
            routes=routes,
        )
        self._reception.follow()
        self._variables = Variables()
        self._decides_again = accept is not None

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """
        Serve one request.
        """
        return self.serve(self.app, environ, start_response)

    def serve(self, app: WSGIApplication, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """
        Serve one request by an application that need not be the one that the middleware was made with.

        Args:
            app: The application.
            environ: The server's environment.
            start_response: The server's.
        """
        nested = MARK in environ
        if nested and not self._decides_again:
            return app(environ, start_response)
        reception = self._reception
        headers = self._variables.read(environ)
        reading = ABSENT
        if headers or reception.asks:
            reading = reception.read(headers, None if nested else lambda: _edge_request(environ))
        refusal = reception.unsynced() if reading.key is not None else None
        if refusal is None:
            received = reception.receive(headers, reading, nested=nested)
            refusal = received.refusal
        if refusal is not None:
            return _answer(environ, start_response, refusal)
        if received.reply is not None:
            start_response = _telling(start_response, received.reply)
        inner = environ if received.headers is None else self._variables.replaced(environ, received.headers)
        work = Work(environ, inner, self._variables)
        if received.context is None:
            try:
                return app(inner, start_response)
            finally:
                work.end()
        step = Step(received.context)
        try:
            with step:
                body = app(inner, start_response)
        except BaseException:
            work.end()
            raise
        if type(body) in (list, tuple) or is_file(body, environ.get("wsgi.file_wrapper")):
            work.end()  # nothing of the application runs any more, and servers know what to do with these
            return body
        work.share()
        return (_SizedBody if hasattr(body, "__len__") else _Body)(body, step, work)


class Variables:
    """
    The variables of a WSGI environment that can hold a routing key.
    """

    def __init__(self) -> None:
        names = {field.name.lower() if field.kind == "header" else field.kind for field in settings().read}
        self._names = {f"HTTP_{name.upper().replace('-', '_')}": name for name in names}

    def __contains__(self, variable: str) -> bool:
        return variable in self._names

    def read(self, environ: WSGIEnvironment) -> HeaderPairs:
        """
        Return the headers of a request that can hold a key; the server has joined the lines of a repeated one.
        """
        # A test may have put in what no server could have received.
        return [
            (name.encode("latin-1", "replace"), environ[variable].encode("latin-1", "replace"))
            for variable, name in self._names.items()
            if variable in environ and isinstance(environ[variable], str)
        ]

    def replaced(self, environ: WSGIEnvironment, headers: HeaderPairs) -> WSGIEnvironment:
        """
        Return a copy of *environ* whose headers that can hold a key are those among *headers*.
        """
        new = {variable: value for variable, value in environ.items() if variable not in self._names}
        for variable, name in self._names.items():
            values = [value.decode("latin-1") for found, value in headers if header_name(found) == name]
            if values:
                new[variable] = ",".join(values)
        return new


class Work:
    """
    One request, from when an application gets its environment until its response has ended.

    Args:
        outer: The environment as it came.
        inner: The one that the application gets; the same, or a copy with other headers.
        variables: The variables in which they may differ.
    """

    __slots__ = ("_inner", "_nested", "_outer", "_variables")

    def __init__(self, outer: WSGIEnvironment, inner: WSGIEnvironment, variables: Variables) -> None:
        self._outer = outer
        self._inner = inner
        self._variables = variables
        self._nested = MARK in outer
        inner[MARK] = True

    def share(self) -> None:
        """
        Let whoever stands outside see what the application has put into its environment, such as the user for the access log.
        """
        if self._inner is not self._outer:
            for variable, value in list(self._inner.items()):
                if variable != MARK and variable not in self._variables:
                    self._outer[variable] = value

    def end(self) -> None:
        """
        Leave nothing of ours in the environment.
        """
        if not self._nested:
            self._inner.pop(MARK, None)
        self.share()


class Steps:
    """
    An iterator each of whose steps, and whose end, runs as a step.

    Args:
        body: What is iterated.
        step: The step, which each takes up where the one before left off.
    """

    __slots__ = ("_body", "_iterator", "_step")

    def __init__(self, body: Iterable[bytes], step: Step) -> None:
        self._body = body
        self._iterator: Iterator[bytes] | None = None
        self._step = step

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        with self._step:
            if self._iterator is None:
                self._iterator = iter(self._body)
            return next(self._iterator)

    def close(self) -> None:
        """
        Close the body, if it can be closed.
        """
        close = getattr(self._body, "close", None)
        if close is not None:
            with self._step:
                close()


class _Body(Steps):
    """
    The body of a response.
    """

    __slots__ = ("_work",)

    def __init__(self, body: Iterable[bytes], step: Step, work: Work) -> None:
        super().__init__(body, step)
        self._work = work

    def close(self) -> None:
        """
        Close the body; the server calls this in any case.
        """
        try:
            super().close()
        finally:
            self._work.end()


class _SizedBody(_Body):
    """
    A body that says how many parts it has, of which servers make a Content-Length.
    """

    __slots__ = ()

    def __len__(self) -> int:
        return len(self._body)  # type: ignore[arg-type]


def is_file(body: Any, wrapper: Any = None) -> bool:
    """
    Return whether a body is a file of the operating system, which a server may send without reading it.

    Args:
        body: The body.
        wrapper: What the server has as ``wsgi.file_wrapper``, if it has that.
    """
    if isinstance(wrapper, type) and isinstance(body, wrapper):
        body = getattr(body, "filelike", None) or getattr(body, "file", None)  # wsgiref, gunicorn; waitress
    try:
        return isinstance(body.fileno(), int)
    except Exception:  # noqa: BLE001 - then it is none
        return False


def edge_headers(environ: WSGIEnvironment) -> list[tuple[str, str]]:
    """
    Return all headers of a request, as its environment has them.
    """
    named = [(variable[5:], value) for variable, value in environ.items() if variable.startswith("HTTP_")]
    named += [(variable, environ[variable]) for variable in ("CONTENT_TYPE", "CONTENT_LENGTH") if environ.get(variable)]
    return [(name.replace("_", "-").lower(), value) for name, value in named]


def _edge_request(environ: WSGIEnvironment) -> EdgeRequest:
    return EdgeRequest(edge_headers(environ), environ.get("QUERY_STRING") or "", environ.get("REMOTE_USER"), environ)


def _telling(start_response: StartResponse, reply: Reply) -> StartResponse:
    """
    A `start_response` that says what the caller has to know, each time that it is called.
    """

    def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
        told = reply.text_headers(headers)
        try:
            return start_response(status, told) if exc_info is None else start_response(status, told, exc_info)
        finally:
            exc_info = None  # it knows this frame, which would otherwise know it for ever

    return start


def _answer(environ: WSGIEnvironment, start_response: StartResponse, refusal: Refusal) -> list[bytes]:
    """
    Answer in place of the application.
    """
    status = HTTPStatus(refusal.status)
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in refusal.headers]
    start_response(f"{status.value} {status.phrase}", headers)
    return [] if environ.get("REQUEST_METHOD") == "HEAD" else [refusal.body]
