"""
A consumer makes itself known: to the route store by a registration, and to the broker by a queue that exists as long as its connection does.

By the second, anybody can tell without the broker's management interface whether a process may still have messages in its hands: an
exclusive queue is deleted with its connection (https://www.rabbitmq.com/docs/queues#exclusive-queues), and the broker answers with
RESOURCE_LOCKED to others who ask for it meanwhile.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from ...errors import TenancyError
from ...observe import warn_once
from ...routes.stores import Member, StoreSource
from .choice import Choices

__all__ = ["REGISTER_EVERY", "Membership", "is_consumer", "is_queue_member"]

#: Seconds between two registrations of one consumer.
REGISTER_EVERY = 60.0


_READER = "tenancy.reader."
_GETS = f"{_READER}get."


def is_queue_member(member: Member) -> bool:
    """
    Return whether a member consumes a queue of RabbitMQ; members of Kafka have a group.
    """
    return not member.group


def is_consumer(member: Member) -> bool:
    """
    Return whether a member is one of the consumers that the broker counts; one that gets messages one by one is not.
    """
    return not member.member.startswith(_GETS)


class Membership:
    """
    What one consumer of one queue says of itself. It does no I/O on the broker: `mark` is the queue to declare there, exclusively.

    Args:
        choices: Who it is.
        queue: The queue that it consumes: the baseline's, or a sandbox's.
        declared: With what options the queue was declared, where that is known; a sandbox's is made like it.
        gets: Whether it gets messages one by one.
    """

    def __init__(self, choices: Choices, queue: str, declared: Mapping[str, Any] | None = None, *, gets: bool = False) -> None:
        self._choices = choices
        self._queue = queue
        self._declared = dict(declared or {})
        self.gets = gets
        self.mark = ""
        self._registered: Member | None = None

    def renew(self) -> str:
        """
        Return a new mark; one that the broker still has for a connection that was lost cannot be declared again.
        """
        self.mark = f"{_GETS if self.gets else _READER}{uuid.uuid4().hex}"
        return self.mark

    def register(self) -> None:
        """
        Write the registration, if it is kept anywhere; blocks. What goes wrong is logged.
        """
        source: Any = self._choices.source
        if not isinstance(source, StoreSource):
            return
        table = self._choices.table()
        identity = self._choices.identity
        member = Member(
            identity.workload,
            self.mark,
            "",
            (self._queue,),
            metadata.version("request-tenancy"),
            "" if table is None else table.id,
            0 if table is None else table.version,
            identity.sandbox or "",
            self._declared,
        )
        try:
            if self._registered is not None and self._registered.member != self.mark:
                source.store.unregister(self._registered)
            source.store.register(member)
            self._registered = member
        except TenancyError as error:
            warn_once(
                f"register:{self._queue}",
                "a consumer of %s could not be registered, so no sandbox can be created: %s",
                self._queue,
                error,
            )

    def unregister(self) -> None:
        """
        Take the registration back; blocks.
        """
        source: Any = self._choices.source
        if self._registered is not None and isinstance(source, StoreSource):
            try:
                source.store.unregister(self._registered)
            except TenancyError:
                return  # it is forgotten in time, and its mark is gone
            self._registered = None
