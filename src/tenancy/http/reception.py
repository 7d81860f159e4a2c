"""
What every HTTP server adapter does with the routing key of a request, whatever its interface: before the application, and to the response.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from opentelemetry.context import Context
from opentelemetry.trace import get_current_span

from ..baggage import ABSENT, Reading, codec
from ..config import Accept, Field, settings
from ..context import ambient, with_key
from ..errors import ConfigurationError, IdentityError, RoutesNotSyncedError
from ..key import RESERVED
from ..observe import annotate_span, count, warn_once
from ..propagator import current_codec
from ..routes.admission import ABSENT as _ABSENT
from ..routes.admission import Admission, Admitted
from ..routes.judge import Judge, judge_if_known
from ..routes.live import LiveRoutes
from ..routes.verdict import Verdict
from ._responses import HeaderPairs, private, served_by
from .edge import Edge, EdgeRequest, Found, Resolver

__all__ = ["OnMalformed", "Reception", "Refusal"]

OnMalformed = Literal["reject", "ignore"]

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, section 5.6.2

_NOT_SYNCED = (
    "This service could not read its route table, so it does not know whose work a request with a routing key is, and serves only requests "
    "without one. Its log has the reason; try again later.\n"
)


class Refusal:
    """
    The answer that a caller gets in place of the application's.

    Args:
        status: The HTTP status code.
        text: The body, plain text.
    """

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, text: str) -> None:
        self.status = status
        self.body = text.encode("ascii", "backslashreplace")
        self.headers: HeaderPairs = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", str(len(self.body)).encode("ascii")),
            (b"cache-control", b"no-store"),
            (b"x-content-type-options", b"nosniff"),
        ]


class Received:
    """
    How a request is to be served.

    Args:
        refusal: The answer without the application, or None.
        headers: The headers that the application is to see; None: those that came.
        context: The OpenTelemetry context in which it runs; None: the current one.
        reply: What the response has to say, or None.
    """

    __slots__ = ("context", "headers", "refusal", "reply")

    def __init__(
        self,
        refusal: Refusal | None = None,
        headers: HeaderPairs | None = None,
        context: Context | None = None,
        reply: Reply | None = None,
    ) -> None:
        self.refusal = refusal
        self.headers = headers
        self.context = context
        self.reply = reply


_AS_IT_IS = Received()
# Nothing in the headers, but there is more to look at.
_NOBODYS: HeaderPairs = [(b"", b"")]


class Reception:
    """
    Decides about the routing keys of inbound HTTP requests. Headers are lists of pairs of bytes.

    Args:
        adapter: Who asks, for counters and logs, such as ``asgi``.
        accept: Which keys are accepted; default the setting ``accept``.
        on_malformed: ``reject``: a request whose key breaks the grammar is answered with 400; ``ignore``: it is served without a key.
        response_header: The name of a response header that tells who served, and why; default the setting ``response_header``.
        cache_headers: Whether responses to requests with a key are marked as not cacheable for others; default the setting
            ``cache_headers``.
        edge: Where a key is looked for in requests that carry none; default the setting ``edge``.
        routes: The live route table; default the one of the settings.

    Raises:
        ConfigurationError: If an argument cannot be used.
    """

    def __init__(
        self,
        adapter: str,
        *,
        accept: Accept | None = None,
        on_malformed: OnMalformed = "reject",
        response_header: str | None = None,
        cache_headers: bool | None = None,
        edge: Iterable[Resolver] | Resolver | None = None,
        routes: LiveRoutes | None = None,
    ) -> None:
        using = settings()
        if on_malformed not in ("reject", "ignore"):
            raise ConfigurationError(f"on_malformed is {on_malformed!r}; use 'reject' or 'ignore'")
        header = using.response_header if response_header is None else response_header
        if header and not _TOKEN.fullmatch(header):
            raise ConfigurationError(
                f"response_header (TENANCY_RESPONSE_HEADER) is {header!r}; use a header name such as 'x-tenancy-served-by'"
            )
        self.adapter = adapter
        self._admission = Admission(adapter, accept=accept, routes=routes)
        self._reject = on_malformed == "reject"
        self.response_header = header.lower().encode("ascii") if header else None
        self.cache_headers = using.cache_headers if cache_headers is None else cache_headers
        self._edge = Edge(using.edge if edge is None else edge)
        self.asks = bool(self._edge)
        self.vary_by = ("baggage", *self._edge.vary)
        self.routes = self._admission.routes
        self.synced = self.routes is None or self._admission.accept == "none"
        self._syncing: asyncio.Task[None] | None = None
        self._judge: Judge | None = None
        self._judge_wanted = True

    def read(self, headers: Sequence[tuple[bytes, bytes]], request: Callable[[], EdgeRequest] | None) -> Reading:
        """
        Read the key of a request, from its headers, else by the resolvers of the edge.

        Args:
            headers: The request's headers, or what `wants` said of them.
            request: Makes the request as resolvers see it; None: they are not asked, because an adapter further out has decided already.
        """
        reading = current_codec().read(headers)
        if reading is ABSENT and self._edge and request is not None:
            reading = self._edge.read(request())
        if reading.conflict:
            count("tenancy.keys.conflicting", {"adapter": self.adapter})
        return reading

    def wants(self, headers: HeaderPairs) -> Sequence[tuple[bytes, bytes]]:
        """
        Return those headers that `read` needs; where there are none, the request has no key.
        """
        ours = current_codec().ours(headers)
        return ours if ours or not self.asks else _NOBODYS

    def receive(
        self, headers: HeaderPairs, reading: Reading, *, ours: Sequence[tuple[bytes, bytes]] | None = None, nested: bool = False
    ) -> Received:
        """
        Decide about a request.

        Args:
            headers: All of its headers.
            reading: What `read` said.
            ours: What `wants` said, where that is at hand.
            nested: Whether an adapter further out has counted the request, and tells the caller.
        """
        if reading is ABSENT:
            return self.receive_without_key(nested=nested)
        admitted = self._admission.decide(reading)
        if admitted.outcome == "malformed" and self._reject:
            annotate_span(None, reason=admitted.reason)
            return Received(Refusal(400, _malformed(headers, reading, admitted.reason)))
        recording = get_current_span().is_recording()
        verdict = None if nested else self._verdict(admitted, recording=recording)
        changed = None
        if admitted.key is None or not admitted.clean or not current_codec().canonical(ours or headers, admitted.key):
            # OpenTelemetry's instrumentation inside of us reads them again, by rules of its own, and handlers pass them on as they are.
            # It finds it in baggage, under the name that it has in the OpenTelemetry context.
            using = settings()
            written = codec(using.read, (Field("baggage", using.member),)).write(headers, admitted.key, binary=True)
            if written.dropped:
                count("tenancy.baggage.dropped_members", amount=written.dropped)
            # Where there is none, no header has told that names are bytes.
            changed = written.carrier if headers else [(name.encode("ascii"), value) for name, value in written.carrier]
        reply = None
        # OpenTelemetry's instrumentation outside of us has a span already; one inside of us makes it only now.
        if not nested and (not recording or self.response_header is not None or (admitted.key is not None and self.cache_headers)):
            reply = Reply(self, admitted, verdict, annotate=not recording)
        return Received(None, changed, with_key(admitted.key), reply)

    def receive_without_key(self, *, nested: bool = False) -> Received:
        """
        Decide about a request that carries nothing that was meant as a key.
        """
        reply = None
        if not nested:
            if self._judge_wanted:
                self._find_judge()
            if self._judge is not None or self.response_header is not None:
                verdict = None if self._judge is None else self._judge.judge(None)
                if self.response_header is not None:
                    reply = Reply(self, _ABSENT, verdict, annotate=not get_current_span().is_recording())
        context = with_key(None) if ambient() else None
        return _AS_IT_IS if reply is None and context is None else Received(None, None, context, reply)

    def not_synced(self, error: RoutesNotSyncedError) -> Refusal:
        """
        Return the answer to a request with a key, while there is no route table.
        """
        warn_once(f"{self.adapter}:{error}", f"{self.adapter}: a request with a routing key was answered with 503: %s", error)
        return Refusal(503, _NOT_SYNCED)

    async def sync(self) -> None:
        """
        Wait for the route table, all requests that need it together: each holding a thread of the pool would leave none for others.

        Raises:
            RoutesNotSyncedError: If the deadline of the settings passed.
        """
        loop = asyncio.get_running_loop()
        waiting = self._syncing
        if waiting is None or waiting.done() or waiting.get_loop() is not loop:
            waiting = self._syncing = loop.create_task(asyncio.to_thread(self._admission.wait_synced))
            waiting.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.shield(waiting)
        self.synced = True

    async def check_workload(self) -> None:
        """
        Warn if the route table does not know this workload: the process serves whatever arrives, so that only makes its verdicts wrong.
        """
        judge = judge_if_known(self.adapter, routes=self.routes)
        if judge is not None:
            try:
                await judge.synced()
            except IdentityError as error:
                warn_once(f"{self.adapter}:{error}", f"{self.adapter}: %s", error)

    def follow(self) -> None:
        """
        Read the route table once, where it can be read, and follow it from now on: what servers do at their start that must not wait.
        """
        if self.routes is None or self.routes.peek() is None:
            return
        self.synced = True
        judge = judge_if_known(self.adapter, routes=self.routes)
        if judge is not None:
            try:
                judge.wait_synced()  # it has been read
            except IdentityError as error:
                warn_once(f"{self.adapter}:{error}", f"{self.adapter}: %s", error)

    def unsynced(self) -> Refusal | None:
        """
        Return the answer to a request with a key while there is no route table, and None as soon as there is one; it does not wait.
        """
        if not self.synced and self.routes is not None:
            try:
                _ = self.routes.table
            except RoutesNotSyncedError as error:
                return self.not_synced(error)
            self.follow()
        return None

    def _find_judge(self) -> None:
        self._judge_wanted = False
        self._judge = judge_if_known(self.adapter, routes=self.routes)

    def _verdict(self, admitted: Admitted, *, recording: bool) -> Verdict | None:
        """
        Count, and put on the current span, whose work this is, where the settings say who this process is.
        """
        if self._judge_wanted:
            self._find_judge()
        verdict = None
        if self._judge is not None and (admitted.key is None or self.synced):
            verdict = self._judge.judge(admitted.key)
        elif recording and admitted.key is not None:
            annotate_span(admitted.key, reason=admitted.reason)
        if recording and admitted.outcome in ("refused", "malformed"):
            annotate_span(None, reason=admitted.reason)
        return verdict


class Reply:
    """
    What the response to one request has to say about its key.
    """

    __slots__ = ("_admitted", "_annotate", "_reception", "_verdict")

    def __init__(self, reception: Reception, admitted: Admitted, verdict: Verdict | None, *, annotate: bool) -> None:
        self._reception = reception
        self._admitted = admitted
        self._verdict = verdict
        self._annotate = annotate

    def headers(self, headers: Iterable[tuple[bytes, bytes]], *, cacheable: bool = True) -> HeaderPairs:
        """
        Return the response's headers with what the caller has to know.

        Args:
            headers: The application's.
            cacheable: Whether this is a response that a cache could keep at all.
        """
        verdict, key = self._verdict, self._admitted.key
        if self._annotate and get_current_span().is_recording():
            annotate_span(key, verdict=verdict.action.value if verdict else None, reason=self._reason())
        using = self._reception
        found = private(headers, using.vary_by) if cacheable and key is not None and using.cache_headers else list(headers)
        if using.response_header is not None:
            found.append((using.response_header, served_by(key, self._reason())))
        return found

    def text_headers(self, headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """
        Like `headers`, for interfaces whose headers are text of Latin-1 characters (PEP 3333).
        """
        told = self.headers((name.encode("latin-1"), value.encode("latin-1")) for name, value in headers)
        return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in told]

    def _reason(self) -> str:
        admitted = self._admitted
        return self._verdict.reason if self._verdict is not None and admitted.outcome in ("absent", "accepted") else admitted.reason


def _malformed(headers: HeaderPairs, reading: Reading, why: str) -> str:
    """
    The text that tells a caller what is wrong with the key.
    """
    place = reading.place if isinstance(reading, Found) else _place(headers)
    reason = why.replace("<", "\\x3c")  # whatever shows this text, it is no markup
    return (
        f"The routing key in the {place} cannot be used: {reason}. A routing key is 1 to 63 of the characters a-z, 0-9 and '-', beginning "
        f"and ending with a letter or digit, and none of the reserved words {', '.join(sorted(RESERVED))}.\n"
    )


def _place(headers: HeaderPairs) -> str:
    """
    Where in a request's headers that stands which is no key.
    """
    field = next((field for field in settings().read if codec((field,), ()).read(headers).malformed is not None), None)
    if field is None:
        return "request"
    return f"header '{field.name}'" if field.kind == "header" else f"member '{field.name}' of the header '{field.kind}'"
