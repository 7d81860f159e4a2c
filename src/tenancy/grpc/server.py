"""
The interceptor for servers of ``grpc``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from .._optional import extra
from ..config import Accept, switched_on
from ..context import Step, attached
from ..routes import LiveRoutes
from .reception import Handlers, OnMalformed, Reception
from .steps import responses

with extra("grpc", "grpc"):
    import grpc

if TYPE_CHECKING:
    _Base = grpc.ServerInterceptor[Any, Any]
else:
    _Base = grpc.ServerInterceptor

__all__ = ["ServerInterceptor", "blocking"]


class ServerInterceptor(_Base):
    """
    Makes the routing key of each call current in its handler: ``grpc.server(pool, interceptors=[ServerInterceptor()])``.

    A handler that yields its responses has the key at every step. A key that is refused, malformed or named twice is taken out of
    ``context.invocation_metadata()`` too.

    Args:
        accept: Which keys are accepted; default the setting, else ``known`` where there is a route source, and ``all`` where not.
        on_malformed: ``reject`` (the call ends with INVALID_ARGUMENT) or ``ignore`` (it is the baseline's).
        routes: The live route table; default the one of the settings.

    Raises:
        ConfigurationError: If *accept* is ``known`` and there is no route source.
    """

    def __init__(
        self, *, accept: Accept | None = None, on_malformed: OnMalformed = "reject", routes: LiveRoutes | None = None
    ) -> None:
        self._handlers = None
        if switched_on():
            reception = Reception(accept, on_malformed, routes)
            self._handlers = Handlers(functools.partial(blocking, reception))

    def intercept_service(self, continuation: Callable[[Any], Any], handler_call_details: Any) -> Any:
        """
        Return the handler of a call, so that it runs under the call's key.
        """
        handler = continuation(handler_call_details)
        if handler is None or self._handlers is None:
            return handler
        return self._handlers.wrapped(handler_call_details.method, handler)


def blocking(reception: Reception, behavior: Callable[..., Any], response_streaming: bool) -> Callable[..., Any]:
    """
    Return a blocking handler as one that runs under the key of its call.
    """

    def respond(request: Any, servicer: Any, *send_response: Any) -> Any:
        received = reception.receive(servicer)
        if received.refusal is not None:
            return servicer.abort(*received.refusal)
        with attached(received.context):
            return behavior(request, received.servicer, *send_response)

    def stream(request: Any, servicer: Any) -> Iterator[Any]:
        received = reception.receive(servicer)
        if received.refusal is not None:
            servicer.abort(*received.refusal)
            return
        step = Step(received.context)
        with step:
            body = behavior(request, received.servicer)
        yield from responses(body, step)

    # A handler that is marked so sends its responses by a callback and returns nothing.
    pushes = getattr(behavior, "experimental_non_blocking", False)
    return functools.update_wrapper(stream if response_streaming and not pushes else respond, behavior)
