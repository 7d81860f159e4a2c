"""
Which messages of a batch a `SelectiveConsumer` of confluent-kafka hands on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from ..._optional import extra
from ...observe import count, warn_once
from .confluent_ahead import place_of
from .confluent_assignment import AssignedConsumer
from .memory import Known
from .selection import Partition
from .sieve import Keyed

with extra("kafka", "confluent_kafka"):
    from confluent_kafka import KafkaError, Message, TopicPartition

__all__ = ["ChoosingConsumer", "headers_of"]

_NONE: Mapping[Any, Known] = MappingProxyType({})


class ChoosingConsumer(AssignedConsumer):
    """
    A ``confluent_kafka.Consumer`` that knows what of a batch is this process's.
    """

    _in_order: bool
    _baseline: bool
    #: The codec's quick look at the headers of one message, and of many.
    _scan: Callable[[Any], bytes | bool]
    _keyed: Callable[[list[Any]], Keyed]

    def _chosen(self, messages: list[Any]) -> list[Any]:
        """
        Return those messages of a batch that are this process's, and error events, in their order.

        Where that raises, as a function for *accept* may, none of them counts as given out.
        """
        given = tuple(messages)
        try:
            return self._chosen_in_order(messages) if self._in_order else self._chosen_at_once(messages)
        except BaseException:
            self._give_back(given)
            raise

    def _give_back(self, messages: Sequence[Any]) -> None:
        """
        Have the client give out messages again, with all that it gave out behind them.
        """
        firsts: dict[Partition, int] = {}
        for message in messages:
            if message.error() is None:
                firsts.setdefault(place_of(message), message.offset())
        for place, first in firsts.items():
            self._selected.unhold(place, first)
            self._ahead.drop(place, first)
            self._offsets.returned[place] = first
            self._go_back(TopicPartition(*place, first))

    def _chosen_at_once(self, messages: list[Any]) -> list[Any]:
        selection = self._selected
        carriers = _all_headers(messages)
        keyed = self._keyed(carriers)
        if not self._baseline and (own := selection.own_topics()):
            keyed = _with_own(keyed, messages, own)
        selection.unkeyed += len(messages) - len(keyed)
        owned: list[int] = []
        left: list[int] = []
        known_of: Callable[[Any], Known | None] = selection.shortcuts().get if keyed else _NONE.get
        for at, raw in keyed:
            message = messages[at]
            known = known_of((raw, message.topic(), message.partition()))
            if known is not None and message.offset() >= known.first:
                known.amount += 1
                mine = known.owned
            else:
                mine = self._takes(message, carriers[at])
                if selection.holding:
                    known_of = _NONE.get
            (owned if mine else left).append(at)
        if self._baseline:
            for at in reversed(left):
                del messages[at]
            return messages
        owned += [at for at, headers in enumerate(carriers) if headers is None and self._is_event(messages[at])]
        return [messages[at] for at in sorted(owned)]

    def _chosen_in_order(self, messages: list[Any]) -> list[Any]:
        """
        Like `_chosen`, up to the first message of each partition that is set aside; the client goes back to what comes behind it.
        """
        selection, chosen, again = self._selected, list[Any](), dict[Partition, int]()
        for message in messages:
            if message.error() is not None:
                if self._is_event(message):
                    chosen.append(message)
                continue
            ledger = selection.ledger(*place_of(message))
            if ledger.held:
                again[place_of(message)] = ledger.held[0].offset + 1
                continue
            headers = headers_of(message)
            raw = headers is not None and self._scan(headers)
            if raw is False and message.topic() not in selection.own_topics():
                selection.unkeyed += 1
                if self._baseline:
                    chosen.append(message)
            elif self._takes(message, headers):
                chosen.append(message)
        if selection.holding:
            self._pause_full()
        # Once it is paused: by pausing the client takes what it gave out last for where it goes on.
        for place, offset in again.items():
            self._offsets.returned[place] = offset
            self._go_back(TopicPartition(*place, offset))
        return chosen

    def _is_event(self, message: Any) -> bool:
        """
        Return whether somebody wants to know of a message that is none.
        """
        error = message.error()
        if error is not None and error.code() == KafkaError._PARTITION_EOF:
            self._offsets.ends[message.topic(), message.partition()] = message.offset()
            return not self._plan.ends
        return error is not None

    def _takes(self, message: Any, headers: Any) -> bool:
        """
        Decide on a message that may have a key, and return whether it is handed on.
        """
        return self._selected.take(headers, message.topic(), message.partition(), message.offset(), message, len(message))


def _with_own(keyed: Keyed, messages: list[Any], own: Collection[str]) -> Keyed:
    """
    Add the messages in a sandbox's own topics that have no key.
    """
    found = {at for at, _ in keyed}
    more = [
        (at, True) for at, message in enumerate(messages) if at not in found and message.error() is None and message.topic() in own
    ]
    return [*keyed, *more]


def _all_headers(messages: list[Any]) -> list[Any]:
    """
    Return the headers of each message; None where it has none or they cannot be read.
    """
    carriers: list[Any] = []
    while len(carriers) < len(messages):
        try:
            carriers.extend(map(Message.headers, messages[len(carriers) :] if carriers else messages))
        except (SystemError, UnicodeError) as error:
            _tell_unreadable(error)
            carriers.append(None)
    return carriers


def headers_of(message: Any) -> Any:
    """
    Return the headers of a message; None where it has none or they cannot be read.
    """
    try:
        return message.headers()
    except (SystemError, UnicodeError) as error:
        _tell_unreadable(error)
        return None


def _tell_unreadable(error: Exception) -> None:
    """
    A header's name is not UTF-8. The client does not survive being asked a second time.
    """
    count("tenancy.keys.malformed", {"adapter": "confluent_kafka"})
    warn_once(
        "unreadable:confluent_kafka",
        "confluent_kafka: the headers of a message cannot be read (%r), so it counts as one without a routing key. Further ones are "
        "only counted (tenancy.keys.malformed).",
        error,
    )
