"""
Answers of Redis that have names in them, as redis-py hands them over: with the names made plain again. No input or output.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import PartitionError
from ._redis_names import Names, Part, shown

__all__ = ["Reply", "counted", "first", "names", "pairs", "scanned", "visible"]

#: Makes an answer plain.
Reply = Callable[[Part, Any], Any]


def names(part: Part, reply: Any) -> Any:
    """
    Make plain a list of names, as KEYS answers.
    """
    return [part.plain(name) for name in reply]


def scanned(part: Part, reply: Any) -> Any:
    """
    Make plain a cursor and a list of names, as SCAN answers.
    """
    cursor, found = _items(reply, 2)
    return type(reply)((cursor, names(part, found)))


def first(part: Part, reply: Any) -> Any:
    """
    Make plain the name that an answer begins with, as that of BLPOP does; None where there was nothing.
    """
    if reply is None:
        return None
    name, *others = _items(reply, None)
    return type(reply)((part.plain(name), *others))


def pairs(part: Part, reply: Any) -> Any:
    """
    Make plain the names that an answer gives something for, as that of XREAD does: a mapping, or a list of pairs.
    """
    if isinstance(reply, dict):
        return {part.plain(name): value for name, value in reply.items()}
    return None if reply is None else [first(part, pair) for pair in _items(reply, None)]


def counted(part: Part, reply: Any) -> Any:
    """
    Make plain the names that a number stands for, as PUBSUB NUMSUB answers: pairs, or, where redis-py did not make any, all in one list.
    """
    if isinstance(reply, list) and reply and not isinstance(reply[0], (list, tuple)):
        return [word if position % 2 else part.plain(word) for position, word in enumerate(reply)]
    return pairs(part, reply)


def visible(known: Names, reply: Any) -> Any:
    """
    Leave the names of routing keys out of an answer to the baseline: that of KEYS or SCAN, or a list of channels.
    """
    if isinstance(reply, (list, tuple)) and len(reply) == 2 and isinstance(reply[1], list):
        both = (reply[0], visible(known, reply[1]))
        return list(both) if isinstance(reply, list) else both
    return [name for name in reply if not known.hidden(name)] if isinstance(reply, list) else reply


def _items(reply: Any, number: int | None) -> Any:
    if isinstance(reply, (list, tuple)) and len(reply) == (number or len(reply)) and reply is not None:
        return reply
    raise PartitionError(
        f"Redis' answer has an unknown form, {shown(reply)}; a response callback of your own may have changed it: remove it"
    )
