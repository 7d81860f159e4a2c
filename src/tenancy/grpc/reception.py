"""
What both servers do with an inbound call, before its handler.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from opentelemetry.context import Context, get_current

from .._optional import extra
from ..config import Accept
from ..context import ambient, with_key
from ..errors import ConfigurationError, RoutesNotSyncedError
from ..key import RoutingKey
from ..observe import annotate_span, warn_once
from ..propagator import current_codec
from ..routes import LiveRoutes
from ..routes.admission import ABSENT, Admission, Admitted
from ..routes.judge import Judge, judge_if_known
from .metadata import rewritten

with extra("grpc", "grpc"):
    import grpc

__all__ = ["Handlers", "OnMalformed", "Received", "Reception"]

_HANDLERS = 1024  # method handlers that are kept
_FOR_EACH_CALL = (None, None)

OnMalformed = Literal["reject", "ignore"]

_NOT_SYNCED = (
    "This service could not read its route table, so it does not know whose work a call with a routing key is, and serves only calls without "
    "one. Its log has the reason; try again later."
)


class Received(NamedTuple):
    """
    How the handler of a call is to run.

    Args:
        context: The OpenTelemetry context for it.
        servicer: The servicer context for it.
        refusal: Status and message with which the call is aborted instead, or None.
    """

    context: Context
    servicer: Any
    refusal: tuple[grpc.StatusCode, str] | None = None


class Reception:
    """
    Decides about the routing keys of inbound calls.

    Nothing waits here: the route table is read once when the server is built and followed from then on, so a call with a key that comes
    before it could be read is turned away, and calls without one never stand in a queue behind it.
    """

    def __init__(self, accept: Accept | None, on_malformed: OnMalformed, routes: LiveRoutes | None) -> None:
        if on_malformed not in ("reject", "ignore"):
            raise ConfigurationError(f"on_malformed is {on_malformed!r}; use 'reject' or 'ignore'")
        self._admission = Admission("grpc", accept=accept, routes=routes)
        self._rejects = on_malformed == "reject"
        self._judge: Judge | None = None
        self._judge_sought = False
        if self._admission.routes is not None:
            self._admission.routes.peek()

    def receive(self, servicer: Any) -> Received:
        """
        Decide about the call whose servicer context this is.
        """
        metadata = servicer.invocation_metadata()
        try:
            admitted = self._admission.admit(metadata)
        except RoutesNotSyncedError as error:
            warn_once(f"grpc:{error}", "grpc: a call with a routing key was answered with UNAVAILABLE: %s", error)
            return Received(with_key(None), servicer, (grpc.StatusCode.UNAVAILABLE, _NOT_SYNCED))
        if admitted.outcome == "malformed" and self._rejects:
            annotate_span(None, reason=admitted.reason)
            why = (
                f"{admitted.reason}: use 1 to 63 of the characters a-z, 0-9 and '-', beginning and ending with a letter or digit, "
                "such as pr-42, or send none"
            )
            return Received(with_key(None), servicer, (grpc.StatusCode.INVALID_ARGUMENT, why))
        key = admitted.key
        if admitted is ABSENT:
            self._tell(admitted)
            return Received(with_key(None) if ambient() else get_current(), servicer)
        if not admitted.clean or (key is not None and not current_codec().canonical(metadata, key)):
            servicer = _Servicer(servicer, rewritten(metadata, key))
        self._tell(admitted)
        return Received(with_key(key), servicer)

    def _tell(self, admitted: Admitted) -> None:
        """
        Count the verdict and put it on the span.
        """
        if not self._judge_sought:
            self._judge, self._judge_sought = judge_if_known("grpc", routes=self._admission.routes), True
        if not self._judged(admitted.key) and admitted.key is not None:
            annotate_span(admitted.key)
        if admitted.outcome in ("refused", "malformed"):
            annotate_span(None, reason=admitted.reason)

    def _judged(self, key: RoutingKey | None) -> bool:
        if self._judge is None:
            return False
        try:
            self._judge.judge(key)
        except RoutesNotSyncedError:  # the key was accepted without the table, so it may be missing
            return False
        return True


class _Servicer:
    """
    A servicer context with other invocation metadata; in all else, and for `isinstance`, the one that it stands for.
    """

    __slots__ = ("__weakref__", "_tenancy_metadata", "_tenancy_servicer")

    def __init__(self, servicer: Any, metadata: tuple[Any, ...]) -> None:
        object.__setattr__(self, "_tenancy_servicer", servicer)
        object.__setattr__(self, "_tenancy_metadata", metadata)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return self._tenancy_servicer.__class__

    def invocation_metadata(self) -> tuple[Any, ...]:
        """
        Return what came with the call, less what is not to travel on.
        """
        return self._tenancy_metadata  # type: ignore[no-any-return]

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "_tenancy_servicer"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._tenancy_servicer, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._tenancy_servicer, name)


class Handlers:
    """
    Method handlers with another behaviour, each made once.

    Args:
        wrap: Makes the behaviour from the one that was there, and from whether it streams its responses.
    """

    def __init__(self, wrap: Callable[[Callable[..., Any], bool], Callable[..., Any]]) -> None:
        self._wrap = wrap
        self._made: dict[str, tuple[Any, Any]] = {}

    def wrapped(self, method: str, handler: Any) -> Any:
        """
        Return a method handler like *handler*.

        Args:
            method: The method that it handles.
            handler: What was there.
        """
        known = self._made.get(method)
        if known is not None and known[0] is handler:
            return known[1]
        made = _with_behavior(handler, self._wrap)
        if known is not None:  # one for each call, which knows its metadata; those must not stay
            self._made[method] = _FOR_EACH_CALL
        elif isinstance(handler, tuple) and len(self._made) < _HANDLERS:
            self._made[method] = handler, made
        return made


def _with_behavior(handler: Any, wrap: Any) -> Any:
    streams = bool(handler.request_streaming), bool(handler.response_streaming)
    name, make = {
        (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
        (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
        (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
        (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
    }[streams]
    behavior = wrap(getattr(handler, name), streams[1])
    return make(behavior, request_deserializer=handler.request_deserializer, response_serializer=handler.response_serializer)
