"""
`scope`: run a block, a function, a coroutine or a generator as the work of one routing key.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextvars import Token
from types import TracebackType
from typing import Any, ParamSpec, TypeVar, cast

from opentelemetry import context as otel
from opentelemetry.context import Context

from .carrier import headers_of
from .context import Step, attached, with_key
from .key import RoutingKey
from .propagator import extract

__all__ = ["scope"]

P = ParamSpec("P")
T = TypeVar("T")


class scope:  # noqa: N801 - it is used as a function: `with scope("pr-42")`, `@scope("pr-42")`
    """
    Make a routing key current for a block, or for every call of what it decorates; the outer one is restored whatever happens.

    As a decorator it takes functions, coroutine functions, generators and async generators. A decorated generator has the key while its
    body runs and its consumer never does, also when the consumer stops half-way. A ``with`` inside of a generator cannot do that: Python
    gives the body of a generator no context of its own, so decorate generators instead.

    Args:
        source: A routing key; or a message of any client, or headers, whose key it then is; or None for work that has none. A source
            without a key clears what was current. In a message a malformed key counts as none, is counted and logged once.

    Raises:
        InvalidRoutingKeyError: If *source* is a string that is not a routing key.
        ConfigurationError: If *source* is an object without headers.
    """

    __slots__ = ("_entered", "key")

    def __init__(self, source: Any) -> None:
        self.key: RoutingKey | None
        if source is None:
            self.key = None
        elif isinstance(source, str):
            self.key = RoutingKey(source)
        else:
            self.key = extract(headers_of(source), adapter="scope")
        self._entered: dict[int, tuple[Context, Token[Context]]] = {}

    def __enter__(self) -> RoutingKey | None:
        context = with_key(self.key)
        self._entered[id(context)] = context, otel.attach(context)
        return self.key

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # By what is current, since other threads and tasks may be in the same scope; something inside may have left its own there, though.
        entered = self._entered.pop(id(otel.get_current()), None) or self._entered.popitem()[1]
        otel.detach(entered[1])

    def __call__(self, function: Callable[P, T]) -> Callable[P, T]:
        """
        Return *function* so that each call, and each step of a generator, runs in this scope.
        """
        if inspect.isasyncgenfunction(function):
            wrapped: Any = _async_generator(function, self.key)
        elif inspect.isgeneratorfunction(function):
            wrapped = _generator(function, self.key)
        elif inspect.iscoroutinefunction(function):
            wrapped = _coroutine(function, self.key)
        else:
            wrapped = _function(function, self.key)
        return cast(Callable[P, T], functools.update_wrapper(wrapped, function))


def _function(function: Callable[..., Any], key: RoutingKey | None) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        with attached(with_key(key)):
            result = function(*args, **kwargs)
        # An object with an async __call__, say, or what another decorator made of a coroutine function.
        return _awaited(result, key) if inspect.iscoroutine(result) else result

    return run


async def _awaited(coroutine: Coroutine[Any, Any, Any], key: RoutingKey | None) -> Any:
    with attached(with_key(key)):
        return await coroutine


def _coroutine(function: Callable[..., Any], key: RoutingKey | None) -> Callable[..., Any]:
    async def run(*args: Any, **kwargs: Any) -> Any:
        with attached(with_key(key)):
            return await function(*args, **kwargs)

    return run


def _generator(function: Callable[..., Any], key: RoutingKey | None) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        body = function(*args, **kwargs)
        step = Step(with_key(key))
        advance: Callable[[], Any] = functools.partial(next, body)
        while True:
            try:
                with step:
                    value = advance()
            except StopIteration as end:
                return end.value
            try:
                sent = yield value
            except GeneratorExit:
                with step:
                    body.close()
                raise
            except BaseException as error:  # noqa: BLE001 - thrown in by the consumer, and meant for the body
                advance = functools.partial(body.throw, error)
            else:
                advance = functools.partial(body.send, sent)

    return run


def _async_generator(function: Callable[..., Any], key: RoutingKey | None) -> Callable[..., Any]:
    async def run(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        body = function(*args, **kwargs)
        step = Step(with_key(key))
        advance: Callable[[], Any] = body.__anext__
        while True:
            try:
                with step:
                    value = await advance()
            except StopAsyncIteration:
                return
            try:
                sent = yield value
            except GeneratorExit:
                with step:
                    await body.aclose()
                raise
            except BaseException as error:  # noqa: BLE001 - thrown in by the consumer, and meant for the body
                advance = functools.partial(body.athrow, error)
            else:
                advance = functools.partial(body.asend, sent)

    return run
