"""
The key in log records, and the library's own warnings.
"""

from __future__ import annotations

import logging
from collections import Counter

from ..context import routing_key
from ._counters import count

__all__ = ["RoutingKeyFilter", "logger", "report_malformed", "warn_once"]

logger = logging.getLogger("tenancy")

_MAX_WARNED = 1000
_warned: set[str] = set()
_kinds: Counter[str] = Counter()


class RoutingKeyFilter(logging.Filter):
    """
    Gives every record the attribute ``routing_key``: the current key, or ``-``.

    Add it to a handler, so that records of all loggers pass it: ``handler.addFilter(RoutingKeyFilter())``, and write
    ``%(routing_key)s`` in the format.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """
        Set the attribute and let the record pass.
        """
        if not hasattr(record, "routing_key"):
            record.routing_key = str(routing_key() or "-")
        return True


def warn_once(subject: str, message: str, *arguments: object, level: int = logging.WARNING) -> None:
    """
    Log a warning, the first time only for each subject.

    Args:
        subject: What the warning is about, ``kind:which``; of each kind at most 1000 different ones are remembered, further ones are not
            logged.
        message: A `logging` format.
        arguments: The values for it.
        level: The level of `logging`.
    """
    kind = subject[: subject.find(":") + 1]
    if subject not in _warned and _kinds[kind] < _MAX_WARNED:
        _warned.add(subject)
        _kinds[kind] += 1
        logger.log(level, message, *arguments)


def report_malformed(adapter: str, value: str, outcome: str) -> None:
    """
    Count a malformed key, and log it once for each adapter.

    Args:
        adapter: Who met it, such as ``asgi``.
        value: What stood where a key should be.
        outcome: What is done about it, as the end of a sentence.
    """
    count("tenancy.keys.malformed", {"adapter": adapter})
    warn_once(
        f"malformed:{adapter}",
        "%s: %r is not a routing key (a-z, 0-9 and '-', at most 63 characters): %s. Further ones are only counted "
        "(tenancy.keys.malformed).",
        adapter,
        value[:64],
        outcome,
    )
