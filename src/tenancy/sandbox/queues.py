"""
RabbitMQ in a sandbox's life: its queues are there before messages are forwarded to them, and go when nobody has any of them in his hands.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import HandoverError
from ..routes import Handover
from ..routes.lease import now
from ..routes.stores import Member, RouteStore

if TYPE_CHECKING:  # whoever names no RabbitMQ needs no client for it
    from ..messaging.rabbitmq.broker import RabbitBroker
    from ..messaging.rabbitmq.names import Names

__all__ = ["Queues", "Strangers"]

# How long after a connection has ended the broker may need to put what it had in its hands back into the queue, in seconds.
_MARGIN = 1.0


class Strangers(NamedTuple):
    """
    Consumers of a baseline's queue that this library knows nothing of.

    Args:
        queue: The queue.
        amount: How many there are.
    """

    queue: str
    amount: int

    def __str__(self) -> str:
        return f"{self.amount} of {self.queue}"


class Queues:
    """
    The queues of sandboxes.

    Args:
        store: The route store.
        rabbit: The RabbitMQ broker; None: there is none to ask.
    """

    def __init__(self, store: RouteStore, rabbit: RabbitBroker | None) -> None:
        self._store = store
        self._rabbit = rabbit
        # Since when nobody was seen to have anything of a queue in his hands, and under which lock: while somebody else had it, he may have.
        self._quiet: dict[str, tuple[int, float]] = {}
        self._moved: dict[str, tuple[int, int]] = {}

    @property
    def known(self) -> bool:
        """
        Whether there is a broker to ask.
        """
        return self._rabbit is not None

    def registered(self, workload: str) -> dict[str, str]:
        """
        Return the queues that running instances of a workload's baseline have registered.
        """
        members = self._members(workload)
        return {queue: "" for member in members if not member.sandbox for queue in member.topics}

    def check(self, workload: str, queues: Mapping[str, str]) -> None:
        """
        Make sure that a broker is there for a workload that consumes queues.

        Raises:
            HandoverError: If none is.
        """
        if queues and self._rabbit is None:
            raise HandoverError(
                f"{workload} consumes {', '.join(sorted(queues))} on RabbitMQ, and it is not said where that is; give "
                "rabbit=RabbitBroker(...)"
            )

    def make(self, row: Handover) -> None:
        """
        Make a life's queues and what leads to them, before anybody hears of it.

        Raises:
            HandoverError: If messages of a queue cannot be handed over, or the broker does not answer.
        """
        known: dict[str, Mapping[str, Any]] = {}
        for member in self._members(row.workload):
            if not member.sandbox:
                known.update(dict.fromkeys(member.topics, member.declared or {}))
        for base, names in self._names(row):
            assert self._rabbit is not None  # noqa: S101 - checked before
            self._rabbit.make(base, names, known.get(base, {}), key=row.key, exchange=row.queues[base])

    def strangers(self, row: Handover) -> list[Strangers]:
        """
        Return which queues of the baseline are consumed by others than this library, which take the key's messages as well.
        """
        from ..messaging.rabbitmq.membership import is_consumer

        found = []
        for base in row.queues:
            assert self._rabbit is not None  # noqa: S101 - checked before
            state = self._rabbit.state(base)
            known = [member for member in self.readers(row.workload, base) if not member.sandbox and is_consumer(member)]
            if state is not None and state.consumers > len(known):
                found.append(Strangers(base, state.consumers - len(known)))
        return found

    def readers(self, workload: str, queue: str) -> list[Member]:
        """
        Return the registered consumers of a queue whose connection lives.
        """
        rabbit = self._rabbit
        assert rabbit is not None  # noqa: S101 - checked before
        return [member for member in self._members(workload) if queue in member.topics and rabbit.alive(member.member)]

    def close_in(self, row: Handover) -> None:
        """
        Let nothing more into a life's queues.
        """
        for base, names in self._names(row):
            assert self._rabbit is not None  # noqa: S101 - checked before
            self._rabbit.close_in(names, key=row.key, exchange=row.queues[base])

    def drain(self, row: Handover) -> str:
        """
        Take out of a life's queues what nobody has in his hands, and delete those that are done with.

        Returns:
            What is being waited for, in words; nothing where all of it is gone.
        """
        waiting = [self._drain(row, base, names) for base, names in self._names(row)]
        return "; ".join(filter(None, waiting))

    def leave(self, row: Handover) -> None:
        """
        Let somebody else take out what is left.
        """
        for _, names in self._names(row):
            if self._rabbit is not None:
                self._rabbit.unlock(names)

    def _drain(self, row: Handover, base: str, names: Names) -> str:
        rabbit = self._rabbit
        assert rabbit is not None  # noqa: S101 - checked before
        lock = rabbit.lock(names)
        if not lock:
            return f"somebody else, who moves what is left in {names.queue}"
        moved = rabbit.move(base, names, "drop" if row.late == "drop" else "baseline")
        returned, dropped = self._moved.get(names.queue, (0, 0))
        self._moved[names.queue] = (returned + moved.returned, dropped + moved.dropped)
        state = rabbit.state(names.queue)
        if state is not None:
            readers = self.readers(row.workload, names.queue)
            if readers or state.consumers or state.ready:
                self._quiet.pop(names.queue, None)
                if not readers and not state.consumers:
                    return f"{state.ready} messages that are left in {names.queue} to be moved"
                named = ", ".join(member.member for member in readers) or f"{state.consumers} that are not registered"
                return f"the sandbox's consumers of {names.queue} to end what they have begun, and leave it: {named}"
            under, since = self._quiet.get(names.queue, (0, 0.0))
            if under != lock:
                under, since = self._quiet[names.queue] = (lock, now())
            if now() - since < _MARGIN:
                return f"{names.queue} to stay empty"
            dead = rabbit.state(names.dead)
            if dead is not None and dead.ready:
                logging.getLogger("tenancy").warning(
                    "%d messages that sandbox %s had rejected are deleted with %s", dead.ready, row.sandbox, names.dead
                )
        self._tell(row, names)
        rabbit.remove(names)
        return ""

    def _tell(self, row: Handover, names: Names) -> None:
        returned, dropped = self._moved.pop(names.queue, (0, 0))
        if returned or dropped:
            logging.getLogger("tenancy").warning(
                "of what sandbox %s had not handled in %s, %d messages went back to the baseline and %d were dropped",
                row.sandbox,
                names.queue,
                returned,
                dropped,
            )

    def _names(self, row: Handover) -> Iterator[tuple[str, Names]]:
        if row.queues:
            from ..messaging.rabbitmq.names import names_of

            for base in row.queues:
                yield base, names_of(base, row.key, row.epoch)

    def _members(self, workload: str) -> list[Member]:
        return [member for member in self._store.members(workload) if not member.group]
