"""
The first look at a message of the baseline's queue: most surely have no key, and need no other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context, get_current

from ...context import with_key
from ...propagator import current_codec
from .choice import Choices

__all__ = ["Quick"]


class Quick:
    """
    Finds messages that surely have no key, and are the baseline's whatever the table says. It counts them in sums.

    Args:
        choices: Decides on all others.
    """

    def __init__(self, choices: Choices) -> None:
        self._choices = choices
        self._lacks = current_codec().lacks
        self._found = 0
        # The current context as it was last, and the same without a key; most messages are met in the same one.
        self._current: Context | None = None
        self._cleared: Context | None = None

    def context(self, headers: Mapping[str, Any] | None) -> Context | None:
        """
        Return the context in which a message is handled that surely has no key; None: it has to be decided on.

        Args:
            headers: Its headers, with names that are text.
        """
        if headers and not self._lacks(headers):
            return None
        current = get_current()
        if current is not self._current:
            if trace.get_current_span(current).is_recording():
                return None  # which is to be told
            self._current, self._cleared = current, with_key(None, current)
        self._found += 1
        return self._cleared

    def count(self) -> None:
        """
        Count those that were found since the last time; call it now and then.
        """
        found, self._found = self._found, 0
        if found:
            self._choices.count_unkeyed(found)
