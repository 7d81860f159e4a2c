"""
Settings of a test's own: what the process remembers is put aside, and put back.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from typing import Any, Protocol

from .. import config
from ..config import Settings
from ..observe import _counters, _logging
from ..routes import live

__all__ = ["Configure", "isolated_settings", "own_variables"]

_PREFIXES = ("TENANCY_", "SIGNADOT_")


class Configure(Protocol):
    """
    Sets settings for the rest of a block, beside those that it was given before.
    """

    def __call__(self, **arguments: Any) -> Settings:
        """
        Return the settings that hold from now on: the arguments of all calls, then the environment as it is now, then the defaults.

        Args:
            arguments: Any parameter of `tenancy.Settings`, as its own type or as the text that the environment variable would hold.

        Raises:
            ConfigurationError: If a value cannot be used; the settings stay as they were.
        """
        ...


def own_variables(names: Iterable[str]) -> list[str]:
    """
    Return those among the *names* of environment variables that settings and route sources read.
    """
    read = {f"TENANCY_{field.name.upper()}" for field in fields(Settings)} | {"TENANCY_ROUTE_TABLE"}
    return [name for name in names if name in read or name.startswith("SIGNADOT_")]


@contextmanager
def isolated_settings(**arguments: Any) -> Iterator[Configure]:
    """
    Run a block with settings of its own, and leave none behind.

    In the block no variable that settings read is set, no route table is open, what is logged once is logged again, and the settings are
    the defaults with *arguments*. Afterwards everything is as it was before, the variables ``TENANCY_*`` and ``SIGNADOT_*`` included.
    What `tenancy.instrument` has patched stays patched, in the block and after it.

    It is for one thread at a time: settings belong to the whole process.

    Args:
        arguments: Any parameter of `tenancy.Settings`.

    Returns:
        A context manager; what it gives sets further settings.

    Raises:
        ConfigurationError: If a value cannot be used.
    """
    before = {name: value for name, value in os.environ.items() if name.startswith(_PREFIXES)}
    opened: dict[str, live.LiveRoutes] = {}
    given: dict[str, Any] = {}

    def configure(**more: Any) -> Settings:
        using = config.configure(**{**given, **more})
        given.update(more)
        return using

    with ExitStack() as stack:
        stack.callback(_restore_variables, before)
        for name in own_variables(before):
            del os.environ[name]
        _put_aside(stack, config, "_current", None)
        _put_aside(stack, live, "_opened", opened)
        _put_aside(stack, _logging, "_warned", set())
        _put_aside(stack, _logging, "_kinds", Counter())
        _put_aside(stack, _counters, "_labelled", set())
        consumers = sys.modules.get("tenancy.messaging.aio_pika")
        if consumers is not None:
            _put_aside(stack, consumers, "_own_queues", set())
        stack.callback(_close, opened)
        if arguments:
            configure(**arguments)
        yield configure


def _put_aside(stack: ExitStack, module: Any, name: str, value: Any) -> None:
    stack.callback(setattr, module, name, getattr(module, name))
    setattr(module, name, value)


def _close(opened: dict[str, live.LiveRoutes]) -> None:
    for routes in opened.values():
        routes.close()


def _restore_variables(before: dict[str, str]) -> None:
    for name in [name for name in os.environ if name.startswith(_PREFIXES) and name not in before]:
        del os.environ[name]
    os.environ.update(before)
