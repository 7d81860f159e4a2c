"""
Which messages of a batch a `SelectiveConsumer` of confluent-kafka hands on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import chain
from typing import Any

from ..._optional import extra
from ...observe import count, warn_once
from .confluent_ahead import place_of
from .confluent_assignment import AssignedConsumer
from .memory import Known
from .selection import Partition

with extra("kafka", "confluent_kafka"):
    from confluent_kafka import KafkaError, Message, TopicPartition

__all__ = ["ChoosingConsumer", "headers_of"]

_PART = 50


class ChoosingConsumer(AssignedConsumer):
    """
    A ``confluent_kafka.Consumer`` that knows what of a batch is this process's.
    """

    _in_order: bool
    _baseline: bool
    #: The codec's quick look at the headers of one message, and of many.
    _scan: Callable[[Any], bytes | bool]
    _keyed: Callable[[Any], list[tuple[int, bytes | bool]]]

    def _chosen(self, messages: list[Any]) -> list[Any]:
        """
        Return those messages of a batch that are this process's, and error events, in their order.

        Where that raises, as a function for *accept* may, none of them counts as given out.
        """
        given = tuple(messages)
        try:
            return self._chosen_in_order(messages) if self._in_order else self._chosen_in_parts(messages)
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

    def _chosen_in_parts(self, messages: list[Any]) -> list[Any]:
        # In parts that are still in the processor's cache when their headers are gone through.
        if len(messages) > _PART:
            parts = [self._chosen_in_parts(messages[at : at + _PART]) for at in range(0, len(messages), _PART)]
            return list(chain.from_iterable(parts))
        carriers = _all_headers(messages)
        keyed = self._keyed(carriers)
        selection = self._selected
        if not self._baseline and (own := selection.own_topics()):
            keyed = _with_own(keyed, messages, own)
        selection.unkeyed += len(messages) - len(keyed)
        shortcuts = selection.shortcuts() if keyed else {}
        if not self._baseline:
            kept = [at for at, headers in enumerate(carriers) if headers is None and self._is_event(messages[at])]
            kept += [at for at, raw in keyed if self._owns(messages[at], carriers[at], raw, shortcuts)]
            return [messages[at] for at in sorted(kept)]
        left = [at for at, raw in keyed if not self._owns(messages[at], carriers[at], raw, shortcuts)]
        for at in reversed(left):
            del messages[at]
        return messages

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
            elif self._owns(message, headers, raw, selection.shortcuts()):
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

    def _owns(self, message: Any, headers: Any, raw: bytes | bool, shortcuts: Mapping[Any, Known]) -> bool:
        """
        Decide on a message that may have a key, and return whether it is handed on.
        """
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        selection = self._selected
        known = None if selection.holding else shortcuts.get((raw, topic, partition))
        if known is not None and offset >= known.first:
            known.amount += 1
            return known.owned
        return selection.take(headers, topic, partition, offset, message, len(message))


def _with_own(keyed: list[tuple[int, bytes | bool]], messages: list[Any], own: Collection[str]) -> list[tuple[int, bytes | bool]]:
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
