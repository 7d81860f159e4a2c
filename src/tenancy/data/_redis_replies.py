"""
Answers of Redis that have names in them, as redis-py hands them over: with the names made plain again. No input or output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

from ..errors import PartitionError
from ._redis_names import Part, hidden, shown

__all__ = ["Reply", "counted", "first", "names", "pairs", "scanned", "visible", "visible_page"]

#: Makes an answer plain.
Reply = Callable[[Part, Any], Any]


def names(part: Part, reply: Any) -> Any:
    """
    Make plain a list of names, as KEYS answers.
    """
    return [part.plain(name) for name in _listed(reply)]


def scanned(part: Part, reply: Any) -> Any:
    """
    Make plain a cursor and a list of names, as SCAN answers.
    """
    cursor, found = _items(reply, 2)
    both = (cursor, names(part, found))
    return list(both) if isinstance(reply, list) else both


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


def visible(reply: Any) -> Any:
    """
    Leave the names of routing keys out of names that the baseline is answered with: by KEYS, or PUBSUB CHANNELS.
    """
    found = _listed(reply)
    for name in found:
        if not isinstance(name, (str, bytes)):
            _unknown(reply)
    mine = [name for name in found if not hidden(name)]
    return type(reply)(mine) if type(reply) in (set, frozenset, tuple) else mine


def visible_page(reply: Any) -> Any:
    """
    Leave the names of routing keys out of a cursor and names that the baseline is answered with, by SCAN.
    """
    cursor, found = _items(reply, 2)
    if not isinstance(cursor, (int, str, bytes)):
        _unknown(reply)
    both = (cursor, visible(found))
    return list(both) if isinstance(reply, list) else both


def _listed(reply: Any) -> list[Any]:
    # Not what could have names in a place where nobody looks.
    if isinstance(reply, (str, bytes, Mapping)) or not isinstance(reply, Iterable):
        _unknown(reply)
    return list(reply)


def _items(reply: Any, number: int | None) -> Any:
    if isinstance(reply, (list, tuple)) and len(reply) == (number or len(reply)):
        return reply
    _unknown(reply)


def _unknown(reply: Any) -> NoReturn:
    raise PartitionError(
        f"Redis' answer has an unknown form, {shown(reply)}; a response callback of your own may have changed it: remove it"
    )
