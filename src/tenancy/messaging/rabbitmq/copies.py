"""
What a forwarded copy says of the message that it stands for, and how that is put back before anybody sees it. Pure; it knows no client.

A copy has the body, the properties and the ``amqp_routing_key`` of the original. What the broker would judge anew, or what tells where the
original came from, is in headers of ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["MARK", "Original", "copy_headers", "is_copy", "original_of", "returned_epoch", "was_forwarded"]

#: All headers of ours begin so.
MARK = "x-tenancy-"

_FORWARDED = f"{MARK}forwarded"
_EXCHANGE = f"{MARK}original-exchange"
_ROUTING_KEY = f"{MARK}original-routing-key"
_USER_ID = f"{MARK}original-user-id"
_MESSAGE_ID = f"{MARK}original-message-id"
# To whom else it is to go, in the words of the exchange to which it was published (https://www.rabbitmq.com/docs/sender-selected).
_ELSEWHERE = {name: f"{MARK}original-{name.lower()}" for name in ("CC", "BCC")}
# No counter is longer, and Python reads no number of thousands of digits.
_LONGEST_MARK = 40
# The broker counts deliveries from a quorum queue, and would not count on from where the original was.
_BROKERS = frozenset({"x-delivery-count"})


class Original(NamedTuple):
    """
    The message that a copy stands for.

    Args:
        headers: Its headers.
        exchange: The exchange to which it was published.
        amqp_routing_key: With which routing key of RabbitMQ's.
        user_id: Its property ``user-id``, which the broker lets only that user publish.
        message_id: Its property ``message-id``.
    """

    headers: dict[str, Any]
    exchange: str
    amqp_routing_key: str
    user_id: str | None
    message_id: str | None


def copy_headers(
    headers: Mapping[str, Any] | None,
    *,
    epoch: int,
    exchange: str,
    amqp_routing_key: str,
    user_id: str | None = None,
    message_id: str | None = None,
) -> dict[str, Any]:
    """
    Return the headers of a copy. A copy of a copy stands for the first message.

    Args:
        headers: Those of the message that is forwarded.
        epoch: The life of the key for which it is forwarded; 0: it goes back to the baseline.
        exchange: Where the message was published.
        amqp_routing_key: With which routing key of RabbitMQ's.
        user_id: Its property ``user-id``.
        message_id: Its property ``message-id``.
    """
    given = dict(headers or {})
    original = original_of(given, exchange=exchange, amqp_routing_key=amqp_routing_key, user_id=user_id, message_id=message_id)
    kept = original.headers
    if epoch:
        kept[_FORWARDED] = f"{epoch}:{_deaths(kept)}"
    else:
        # It goes back by the default exchange, where these would name queues, and give it to them once more.
        for name, aside in _ELSEWHERE.items():
            if name in kept:
                kept[aside] = kept.pop(name)
    kept[_EXCHANGE] = original.exchange
    kept[_ROUTING_KEY] = original.amqp_routing_key
    if original.user_id is not None:
        kept[_USER_ID] = original.user_id
    if original.message_id is not None:
        kept[_MESSAGE_ID] = original.message_id
    return kept


def original_of(
    headers: Mapping[str, Any], *, exchange: str, amqp_routing_key: str, user_id: str | None = None, message_id: str | None = None
) -> Original:
    """
    Return the message that a received one stands for: itself, if it is no copy.

    Args:
        headers: The headers of what was received; they are not changed.
        exchange: What its delivery says.
        amqp_routing_key: What its delivery says.
        user_id: Its property.
        message_id: Its property.
    """
    kept = {name: value for name, value in headers.items() if not name.startswith(MARK) and name not in _BROKERS}
    if _EXCHANGE not in headers:
        return Original(kept, exchange, amqp_routing_key, user_id, message_id)
    kept.update({name: headers[aside] for name, aside in _ELSEWHERE.items() if aside in headers})
    # What was dead-lettered since came by another way, and with another routing key, as its first death was not here.
    return Original(
        kept,
        _text(headers[_EXCHANGE]) or "",
        _text(headers.get(_ROUTING_KEY)) or "",
        _text(headers.get(_USER_ID)),
        _text(headers.get(_MESSAGE_ID)),
    )


def is_copy(headers: Mapping[str, Any]) -> bool:
    """
    Return whether headers are those of a copy.
    """
    return _EXCHANGE in headers


def was_forwarded(headers: Mapping[str, Any]) -> bool:
    """
    Return whether a message has the mark of one that was forwarded to a sandbox.
    """
    return _FORWARDED in headers


def returned_epoch(headers: Mapping[str, Any]) -> int:
    """
    Return the life of the key for which a message in the baseline's queue was forwarded and came back; 0: it was not.

    One that the sandbox got, and that came here by way of a dead-letter exchange, has died once more than when it was forwarded.

    Args:
        headers: The headers of what was received.
    """
    mark = headers.get(_FORWARDED)
    text = _text(mark) or ""
    epoch, colon, deaths = text.partition(":")
    if len(text) > _LONGEST_MARK or not colon or not epoch.isdecimal() or not deaths.isdecimal():
        return 0
    return int(epoch) if int(deaths) == _deaths(headers) else 0


def _deaths(headers: Mapping[str, Any]) -> int:
    """
    How often the broker has dead-lettered a message (https://www.rabbitmq.com/docs/dlx#effects).
    """
    deaths = headers.get("x-death")
    if not isinstance(deaths, (list, tuple)):
        return 0
    counts = (death.get("count", 1) for death in deaths if isinstance(death, Mapping))
    return sum(count for count in counts if isinstance(count, int))


def _text(value: Any) -> str | None:
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).decode("utf-8", "replace")
    return value if isinstance(value, str) else None
