"""
The interceptor for servers of ``grpc.aio``.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from .._optional import extra
from ..config import Accept, switched_on
from ..context import Step, async_steps, attached
from ..routes import LiveRoutes
from .reception import Handlers, OnMalformed, Reception
from .server import blocking

with extra("grpc", "grpc"):
    import grpc
    import grpc.aio

if TYPE_CHECKING:
    _Base = grpc.aio.ServerInterceptor[Any, Any]
else:
    _Base = grpc.aio.ServerInterceptor

__all__ = ["AioServerInterceptor"]


class AioServerInterceptor(_Base):
    """
    Makes the routing key of each call current in its handler: ``grpc.aio.server(interceptors=[AioServerInterceptor()])``.

    Handlers may be coroutines (also with ``await context.read()`` and ``write()``), async generators, or blocking functions and
    generators, which grpc runs in its thread pool. A key that is refused, malformed or named twice is taken out of
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
            self._handlers = Handlers(functools.partial(_wrapped, reception))

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """
        Return the handler of a call, so that it runs under the call's key.
        """
        handler = await continuation(handler_call_details)
        if handler is None or self._handlers is None:
            return handler
        return self._handlers.wrapped(handler_call_details.method, handler)


def _wrapped(reception: Reception, behavior: Callable[..., Any], response_streaming: bool) -> Callable[..., Any]:
    """
    Return a handler as one that runs under the key of its call. grpc looks at a handler's kind to know how to run it, so the kind stays; only
    a coroutine that writes its responses becomes an async generator, the kind that every interceptor outside of ours can deal with.
    """

    async def respond(request: Any, servicer: Any) -> Any:
        received = reception.receive(servicer)
        if received.refusal is not None:
            return await servicer.abort(*received.refusal)
        with attached(received.context):
            return await behavior(request, received.servicer)

    async def write(request: Any, servicer: Any) -> AsyncIterator[Any]:
        await respond(request, servicer)
        return
        yield

    async def stream(request: Any, servicer: Any) -> AsyncIterator[Any]:
        received = reception.receive(servicer)
        if received.refusal is not None:
            await servicer.abort(*received.refusal)
            return
        step = Step(received.context)
        with step:
            body = behavior(request, received.servicer)
        async with aclosing(async_steps(body, step)) as steps:
            async for response in steps:
                yield response

    if inspect.isasyncgenfunction(behavior):
        return functools.update_wrapper(stream, behavior)
    if inspect.iscoroutinefunction(behavior):
        return functools.update_wrapper(write if response_streaming else respond, behavior)
    return blocking(reception, behavior, response_streaming)
