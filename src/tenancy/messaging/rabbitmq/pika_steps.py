"""
Coroutines without an event loop of asyncio's: what is written once runs on a blocking connection of pika's and on one that calls back.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Coroutine, Generator
from typing import Any

__all__ = ["Wait", "run"]


class Wait:
    """
    Something that is awaited: it comes to pass once, with a result or an error.
    """

    __slots__ = ("_error", "_result", "_then", "done")

    def __init__(self) -> None:
        self.done = False
        self._result: Any = None
        self._error: BaseException | None = None
        self._then: list[Callable[[], None]] = []

    def set(self, result: Any = None) -> None:
        """
        Let it come to pass; after the first time nothing happens.
        """
        self._end(result, None)

    def fail(self, error: BaseException) -> None:
        """
        Let it fail, likewise.
        """
        self._end(None, error)

    def then(self, step: Callable[[], None]) -> None:
        """
        Call *step* when it has come to pass.
        """
        if self.done:
            step()
        else:
            self._then.append(step)

    def __await__(self) -> Generator[Wait, None, Any]:
        if not self.done:
            yield self
        if self._error is not None:
            raise self._error
        return self._result

    def _end(self, result: Any, error: BaseException | None) -> None:
        if not self.done:
            self.done, self._result, self._error = True, result, error
            then, self._then = self._then, []
            for step in then:
                step()


def run(steps: Coroutine[Wait, None, None]) -> None:
    """
    Go through a coroutine, as far as it comes now, and further whenever what it waits for has come to pass; all in the context that is
    current now. What it raises is raised where the last step was taken.
    """
    context = contextvars.copy_context()

    def step() -> None:
        try:
            waiting: Wait = context.run(steps.send, None)
        except StopIteration:
            return
        waiting.then(step)

    step()
