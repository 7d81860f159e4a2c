"""
A command of the caller's made into the one that Redis gets. No input or output.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from ..errors import PartitionError
from ._redis_commands import NOT_THROUGH, READS, Command, find
from ._redis_globs import tells_of_keys
from ._redis_names import Encode, Part, raw_name
from ._redis_replies import Reply

__all__ = ["Plan", "check_channel", "rewrite"]

_NOTIFICATIONS: Final = re.compile(rb"__(?:keyspace|keyevent|subkeyspace|subkeyevent|subkeyspaceitem|subkeyspaceevent)@")


def rewrite(
    part: Part, words: tuple[Any, ...], options: dict[str, Any], encode: Encode
) -> tuple[tuple[Any, ...], dict[str, Any], Reply | None]:
    """
    Return the words, the options of redis-py and what makes the answer plain, for a command of a routing key's work.

    Args:
        part: The key's names.
        words: The command as redis-py takes it.
        options: What redis-py hands to response callbacks, and in ``keys`` to its client-side cache; they are changed.
        encode: The client's encoder.

    Raises:
        PartitionError: If the command cannot be kept to the key.
    """
    name, command, at = find(words)
    if options.get("keys"):
        options["keys"] = [part.own(key, encode) for key in options["keys"]]
    return _changed(part, command, name, words, at, encode), options, command.reply


def _changed(part: Part, command: Command, name: str, words: tuple[Any, ...], at: int, encode: Encode) -> tuple[Any, ...]:
    changed = list(words)
    for position in command.keys(words, at):
        changed[position] = part.own(words[position], encode)
    patterns = list(command.patterns(words, at))
    for position in patterns:
        changed[position] = part.own(words[position], encode)
    if name == "SCAN" and not patterns:
        changed += ["MATCH", part.raw + b"*"]
    elif name == "PUBSUB CHANNELS" or name == "PUBSUB SHARDCHANNELS":
        changed += [] if patterns else [part.raw + b"*"]
    elif name == "PUBLISH" and patterns:
        check_channel(part, words[at], encode)
    return tuple(changed)


def check_channel(part: Part, channel: Any, encode: Encode, *, pattern: bool = False) -> None:
    """
    Raise where a channel is one of Redis' own, on which it tells of everybody's keys.

    Args:
        part: The key's names.
        channel: The channel, or a pattern of channels.
        encode: The client's encoder.
        pattern: Whether it is a pattern. One that is for channels of this kind would never match, as the key's own have its prefix.

    Raises:
        PartitionError: If it is one.
    """
    raw = raw_name(channel, encode)
    if _NOTIFICATIONS.match(raw) or (pattern and tells_of_keys(raw)):
        raise PartitionError(
            f"the {'pattern' if pattern else 'channel'} {channel!r} tells of everybody's keys, not of routing key {str(part.key)!r} alone: "
            "subscribe to it without a key"
        )


class Plan:
    """
    What a command of a routing key's work does, where the baseline's values are read through.

    Args:
        words: The command as redis-py takes it.
        encode: The client's encoder.

    Raises:
        PartitionError: If it cannot be done truly.
    """

    def __init__(self, words: tuple[Any, ...], encode: Encode) -> None:
        name, command, at = find(words)
        if name in NOT_THROUGH:
            raise PartitionError(
                f"{name} cannot read through to the baseline: {NOT_THROUGH[name]}; use a client without read_through"
            )
        self._words = words
        self._positions = list(command.keys(words, at))
        #: The names of the command's keys, as the baseline has them.
        self.names = [raw_name(words[position], encode) for position in self._positions]
        #: Whether it changes nothing, so that the baseline's value will do.
        self.reads = name in READS

    def mixed(self, part: Part, options: Mapping[str, Any], owned: Iterable[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """
        Return the words and the options of a read, with each key's name where its value is.

        Args:
            part: The key's names.
            options: The options of redis-py.
            owned: For each name whether the key has a value of its own, or none of its own: 1, or 0.
        """
        changed = list(self._words)
        names = [part.raw + name if own else name for name, own in zip(self.names, owned, strict=True)]
        for position, name in zip(self._positions, names, strict=True):
            changed[position] = name
        return tuple(changed), {**options, "keys": names} if options.get("keys") else dict(options)
