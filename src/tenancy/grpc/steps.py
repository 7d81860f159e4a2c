"""
Iterators whose steps run in an OpenTelemetry context of their own, whichever thread or task takes them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Generator, Iterable, Iterator
from contextlib import aclosing
from typing import Any

from opentelemetry.context import Context

from ..context import Step, async_steps

__all__ = ["Requests", "arequests", "responses"]


def responses(body: Iterable[Any], step: Step) -> Generator[Any, None, None]:
    """
    Yield what *body* yields, each step of it, and its end, as a *step*.
    """
    with step:
        iterator = iter(body)
    while True:
        try:
            with step:
                response = next(iterator)
        except StopIteration:
            return
        try:
            yield response
        except GeneratorExit:
            if isinstance(iterator, Generator):
                with step:
                    iterator.close()
            raise


class Requests(Iterator[Any]):
    """
    The requests of a stream, produced in *context*: grpc takes them in a thread of its own, where nothing is current.
    """

    __slots__ = ("_requests", "_step")

    def __init__(self, requests: Iterator[Any], context: Context) -> None:
        self._requests = requests
        self._step = Step(context)

    def __next__(self) -> Any:
        with self._step:
            return next(self._requests)


async def arequests(requests: AsyncIterable[Any] | Iterable[Any], context: Context) -> AsyncGenerator[Any, None]:
    """
    Like `Requests`, for what a call of ``grpc.aio`` takes.
    """
    step = Step(context)
    if isinstance(requests, AsyncIterable):
        async with aclosing(async_steps(requests, step)) as steps:
            async for request in steps:
                yield request
    else:
        for request in responses(requests, step):
            yield request
