"""
The routing key in the properties of a message that pika publishes.
"""

from __future__ import annotations

import copy
import uuid
from collections.abc import Callable
from typing import Any

from ... import propagator
from ..._optional import extra
from ...context import attached, with_key
from ...key import RoutingKey

with extra("pika", "pika"):
    from pika.spec import BasicProperties

__all__ = ["inject", "publish"]

_CURRENT: Any = propagator.CURRENT


def inject(properties: BasicProperties | None = None, *, key: RoutingKey | str | None = _CURRENT) -> BasicProperties:
    """
    Return new properties that carry the routing key exactly once, and a ``message_id``; all others are the same.

    Args:
        properties: The properties; they are not changed. May be those of a message that was received and is passed on.
        key: What to write; None removes any key. Default: the current key, and where there is none the one that *properties* already have,
            unless the work at hand was said to have none.

    Raises:
        InvalidRoutingKeyError: If *key* is given and is not a routing key.
    """
    duplicate = BasicProperties() if properties is None else copy.copy(properties)
    duplicate.headers = propagator.inject(duplicate.headers, key=key, binary=False)
    if not duplicate.message_id:
        # A message that is sent on is not flagged as redelivered; by this its handler can tell that it has seen it.
        duplicate.message_id = uuid.uuid4().hex
    return duplicate


def publish(
    basic_publish: Callable[..., Any],
    exchange: str,
    routing_key: str,
    body: Any,
    properties: BasicProperties | None,
    mandatory: bool,
) -> Any:
    """
    Publish a message that carries the routing key.

    Args:
        basic_publish: That of pika's channel, which OpenTelemetry's instrumentation may have replaced by one that writes baggage anew.
        exchange: As for it.
        routing_key: As for it; RabbitMQ's.
        body: As for it.
        properties: As for it; they are not changed.
        mandatory: As for it.
    """
    sent = inject(properties)
    # What the instrumentation writes over the header is the current baggage, so the key has to be there as well.
    with attached(with_key(propagator.extract(sent.headers, adapter="pika"))):
        return basic_publish(exchange, routing_key, body, sent, mandatory)
