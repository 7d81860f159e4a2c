"""
Where the names stand in each command of Redis that a routing key's work may use, as words of Redis' own documentation have it:
https://redis.io/docs/latest/develop/reference/key-specs/. No input or output.

A test holds the table against ``COMMAND`` and ``COMMAND GETKEYS`` of a real server.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from ..errors import PartitionError
from . import _redis_replies as replies
from ._redis_names import shown
from ._redis_replies import Reply

__all__ = ["COMMANDS", "CONTAINERS", "LISTING", "NOT_THROUGH", "READS", "REFUSED", "Command", "find", "name_of"]

T = TypeVar("T")
Words = Sequence[Any]
#: Tells which words hold names, from all words of a command and the position of the first one after the command's name.
Positions = Callable[[Words, int], Iterable[int]]


def _none(_words: Words, _at: int) -> Iterable[int]:
    return ()


def _span(first: int, last: int, step: int = 1) -> Positions:
    # Counted from the first word after the command's name; *last* below 0 from the end, as in the reply of COMMAND.
    def positions(words: Words, at: int) -> Iterable[int]:
        end = len(words) + last if last < 0 else at + last
        return range(at + first, min(end, len(words) - 1) + 1, step)

    return positions


def _counted(number: int, *others: int, step: int = 1) -> Positions:
    # A number of names stands before them; *others* are names in fixed places.
    def positions(words: Words, at: int) -> Iterable[int]:
        fixed = [at + other for other in others if at + other < len(words)]
        start = at + number
        if start >= len(words):
            return fixed
        count = _number(words[start])
        if count * step > len(words) - start - 1:
            left = len(words) - start - 1
            raise PartitionError(
                f"the number of keys of {name_of(words)} is {count}, but only {left} words follow: give the number of its keys"
            )
        return [*fixed, *range(start + 1, start + 1 + count * step, step)]

    return positions


def _script_keys(words: Words, at: int) -> Iterable[int]:
    # "All names of keys that a script accesses must be explicitly provided as input key arguments":
    # https://redis.io/docs/latest/develop/programmability/eval-intro/#script-parameterization
    found = list(_counted(1)(words, at))
    if not found and at + 1 < len(words):
        raise PartitionError(
            f"{name_of(words)} declares no keys, so those that it uses would be the baseline's: give them to it, and have it use "
            "KEYS[1] and so on"
        )
    return found


_DIGITS: Final = re.compile(rb"[0-9]{1,9}")


def _number(word: Any) -> int:
    text = (
        str(word).encode()
        if isinstance(word, (str, int))
        else bytes(word)
        if isinstance(word, (bytes, bytearray, memoryview))
        else b""
    )
    if _DIGITS.fullmatch(text) is None:
        raise PartitionError(f"the number of keys of a command is {shown(word)}: give a whole number, 0 or more")
    return int(text)


def _is(word: Any, *tokens: bytes) -> bool:
    if isinstance(word, str):
        word = word.encode("utf-8", "surrogatepass")
    return isinstance(word, (bytes, bytearray, memoryview)) and bytes(word).upper() in tokens


def _streams(words: Words, at: int) -> Iterable[int]:
    # XREAD and XREADGROUP: options, STREAMS, as many names as ids.
    position = at
    while position < len(words):
        if _is(words[position], b"STREAMS"):
            first = position + 1
            return range(first, first + (len(words) - first) // 2)
        position += 3 if _is(words[position], b"GROUP") else 1 if _is(words[position], b"NOACK") else 2
    raise PartitionError(f"{name_of(words)} has no STREAMS: give STREAMS, the names and as many ids")


def _geo_store(words: Words, at: int) -> Iterable[int]:
    found = [at] if at < len(words) else []
    position = at + 4  # no option stands earlier
    while position < len(words) - 1:
        if _is(words[position], b"STORE", b"STOREDIST"):
            position += 1
            found.append(position)
        position += 1
    return found


def _sort_words(words: Words, at: int) -> tuple[list[int], list[int]]:
    # The names, and the patterns that make names of what is sorted.
    names, patterns = [at] if at < len(words) else [], []
    position = at + 1
    while position < len(words):
        word, left = words[position], len(words) - position - 1
        if _is(word, b"ASC", b"DESC", b"ALPHA"):
            position += 1
        elif _is(word, b"LIMIT") and left >= 2:
            position += 3
        elif _is(word, b"STORE") and left:
            names.append(position + 1)
            position += 2
        elif _is(word, b"BY", b"GET") and left:
            # A pattern without "*" leads to no key: BY nosort, and GET # for what is sorted itself.
            if _has_star(words[position + 1]):
                patterns.append(position + 1)
            position += 2
        else:
            raise PartitionError(f"{shown(word)} is no option of SORT: use BY, LIMIT, GET, ASC, DESC, ALPHA or STORE")
    return names, patterns


def _has_star(word: Any) -> bool:
    return "*" in word if isinstance(word, str) else isinstance(word, (bytes, bytearray, memoryview)) and b"*" in bytes(word)


def _sort_keys(words: Words, at: int) -> Iterable[int]:
    return _sort_words(words, at)[0]


def _sort_patterns(words: Words, at: int) -> Iterable[int]:
    return _sort_words(words, at)[1]


def _scan_pattern(words: Words, at: int) -> Iterable[int]:
    # SCAN cursor [MATCH pattern] [COUNT n] [TYPE type]; of several patterns Redis takes the last.
    found = []
    position = at + 1
    while position < len(words):
        if not _is(words[position], b"MATCH", b"COUNT", b"TYPE"):
            raise PartitionError(f"{shown(words[position])} is no option of SCAN that is known: use MATCH, COUNT or TYPE")
        if _is(words[position], b"MATCH") and position + 1 < len(words):
            found.append(position + 1)
        position += 2
    return found


def _copy_keys(words: Words, at: int) -> Iterable[int]:
    for word in words[at + 2 :]:
        if not _is(word, b"REPLACE"):
            raise PartitionError(f"{shown(word)} of COPY leads to another database, where nobody would drop the copy: leave it out")
    return _span(0, 1)(words, at)


@dataclass(frozen=True)
class Command:
    """
    What is known of a command.

    Args:
        keys: Which words are keys.
        patterns: Which other words are made the key's own: patterns and channels.
        reply: What is done with an answer that has names in it.
    """

    keys: Positions = _none
    patterns: Positions = _none
    reply: Reply | None = None


FIRST: Final = Command(_span(0, 0))  # by far the most
_TWO: Final = Command(_span(0, 1))
_ALL: Final = Command(_span(0, -1))
_NO_KEYS: Final = Command()


def _each(what: T, names: str) -> dict[str, T]:
    return dict.fromkeys(names.split(), what)


def _under(command: Command, container: str, names: str) -> dict[str, Command]:
    return {f"{container} {name}": command for name in names.split()}


#: Every command that a routing key's work may use; one of a container under both words.
COMMANDS: Final[dict[str, Command]] = {
    **_each(
        FIRST,
        "APPEND BITCOUNT BITFIELD BITFIELD_RO BITPOS DECR DECRBY DUMP EXPIRE EXPIREAT EXPIRETIME GEOADD GEODIST GEOHASH GEOPOS "
        "GEORADIUS_RO GEORADIUSBYMEMBER_RO GEOSEARCH GET GETBIT GETDEL GETEX GETRANGE GETSET HDEL HEXISTS HGET HGETALL HINCRBY "
        "HINCRBYFLOAT HKEYS HLEN HMGET HMSET HRANDFIELD HSCAN HSET HSETNX HSTRLEN HVALS INCR INCRBY INCRBYFLOAT LINDEX LINSERT LLEN LPOP "
        "LPOS LPUSH LPUSHX LRANGE LREM LSET LTRIM PERSIST PEXPIRE PEXPIREAT PEXPIRETIME PFADD PSETEX PTTL RESTORE RPOP RPUSH RPUSHX SADD "
        "SCARD SET SETBIT SETEX SETNX SETRANGE SISMEMBER SMEMBERS SMISMEMBER SPOP SRANDMEMBER SREM SSCAN STRLEN SUBSTR TTL TYPE XACK XADD "
        "XAUTOCLAIM XCLAIM XDEL XLEN XPENDING XRANGE XREVRANGE XSETID XTRIM ZADD ZCARD ZCOUNT ZINCRBY ZLEXCOUNT ZMSCORE ZPOPMAX ZPOPMIN "
        "ZRANDMEMBER ZRANGE ZRANGEBYLEX ZRANGEBYSCORE ZRANK ZREM ZREMRANGEBYLEX ZREMRANGEBYRANK ZREMRANGEBYSCORE ZREVRANGE "
        "ZREVRANGEBYLEX ZREVRANGEBYSCORE ZREVRANK ZSCAN ZSCORE "
        # Redis 7.4 and 8
        "HEXPIRE HEXPIREAT HEXPIRETIME HGETDEL HGETEX HPERSIST HPEXPIRE HPEXPIREAT HPEXPIRETIME HPTTL HSETEX HTTL XACKDEL XDELEX",
    ),
    **_each(_ALL, "DEL EXISTS MGET PFCOUNT PFMERGE SDIFF SDIFFSTORE SINTER SINTERSTORE SUNION SUNIONSTORE TOUCH UNLINK WATCH"),
    **_each(_TWO, "BLMOVE BRPOPLPUSH GEOSEARCHSTORE LCS LMOVE RENAME RENAMENX RPOPLPUSH SMOVE ZRANGESTORE"),
    **_each(Command(_span(0, -1, 2)), "MSET MSETNX"),
    **_each(Command(_span(0, -2), reply=replies.first), "BLPOP BRPOP BZPOPMAX BZPOPMIN"),
    **_each(Command(_counted(0)), "SINTERCARD ZDIFF ZINTER ZINTERCARD ZUNION"),
    **_each(Command(_counted(1, 0)), "ZDIFFSTORE ZINTERSTORE ZUNIONSTORE"),
    **_each(Command(_counted(0), reply=replies.first), "LMPOP ZMPOP"),
    **_each(Command(_counted(1), reply=replies.first), "BLMPOP BZMPOP"),
    **_each(Command(_script_keys), "EVAL EVAL_RO EVALSHA EVALSHA_RO FCALL FCALL_RO"),
    **_each(Command(_streams, reply=replies.pairs), "XREAD XREADGROUP"),
    **_each(Command(_geo_store), "GEORADIUS GEORADIUSBYMEMBER"),
    **_each(Command(_sort_keys, _sort_patterns), "SORT SORT_RO"),
    "BITOP": Command(_span(1, -1)),
    "COPY": Command(_copy_keys),
    "MSETEX": Command(_counted(0, step=2)),
    **_under(FIRST, "OBJECT", "ENCODING FREQ IDLETIME REFCOUNT"),
    **_under(FIRST, "MEMORY", "USAGE"),
    **_under(FIRST, "XGROUP", "CREATE CREATECONSUMER DELCONSUMER DESTROY SETID"),
    **_under(FIRST, "XINFO", "CONSUMERS GROUPS STREAM"),
    # Patterns, channels
    "KEYS": Command(patterns=_span(0, 0), reply=replies.names),
    "SCAN": Command(patterns=_scan_pattern, reply=replies.scanned),
    **_each(Command(patterns=_span(0, 0)), "PUBLISH SPUBLISH"),
    **_under(Command(patterns=_span(0, 0), reply=replies.names), "PUBSUB", "CHANNELS SHARDCHANNELS"),
    **_under(Command(patterns=_span(0, -1), reply=replies.counted), "PUBSUB", "NUMSUB SHARDNUMSUB"),
    # No names, and nothing that others would notice
    **_each(_NO_KEYS, "DISCARD ECHO INFO LASTSAVE LOLWUT PING QUIT ROLE TIME UNWATCH WAIT WAITAOF"),
    **_under(_NO_KEYS, "ACL", "CAT DRYRUN GENPASS GETUSER HELP LIST USERS WHOAMI"),
    **_under(_NO_KEYS, "CLIENT", "GETNAME GETREDIR HELP ID INFO LIST SETINFO SETNAME TRACKINGINFO"),
    **_under(_NO_KEYS, "COMMAND", "COUNT DOCS GETKEYS GETKEYSANDFLAGS HELP INFO LIST"),
    **_under(_NO_KEYS, "CONFIG", "GET HELP"),
    **_under(_NO_KEYS, "FUNCTION", "DUMP HELP LIST STATS"),
    **_under(_NO_KEYS, "LATENCY", "DOCTOR GRAPH HELP HISTOGRAM HISTORY LATEST"),
    **_under(_NO_KEYS, "MEMORY", "DOCTOR HELP MALLOC-STATS STATS"),
    **_under(_NO_KEYS, "MODULE", "HELP LIST"),
    **_under(_NO_KEYS, "OBJECT", "HELP"),
    **_under(_NO_KEYS, "PUBSUB", "HELP"),
    **_under(_NO_KEYS, "SCRIPT", "EXISTS HELP LOAD"),
    **_under(_NO_KEYS, "SLOWLOG", "HELP LEN"),
    **_under(_NO_KEYS, "XGROUP", "HELP"),
    **_under(_NO_KEYS, "XINFO", "HELP"),
    "COMMAND": _NO_KEYS,
}

#: The first words of commands that have two.
CONTAINERS: Final = frozenset(
    {name.partition(" ")[0] for name in COMMANDS if " " in name} | {"CLUSTER", "DEBUG", "FUNCTION", "HIMPORT", "HOTKEYS"}
)

#: Commands without a key that tell names: of the baseline's answers those of routing keys are left out.
LISTING: Final[dict[str, Callable[[Any], Any]]] = {
    "KEYS": replies.visible,
    "SCAN": replies.visible_page,
    "PUBSUB CHANNELS": replies.visible,
    "PUBSUB SHARDCHANNELS": replies.visible,
}

_OTHERS: Final = "it changes what others have too: leave it to those who run the server, or to work without a key"
_EVERYTHING: Final = "it deletes everybody's data: use RedisPartition.drop(client, key) for one key's"
_DATABASE: Final = "what it puts into another database nobody would drop: use names in this one"
_CONNECTION: Final = "it changes a connection that the next user of the pool gets: make a client of its own for it"
_SUBSCRIBE: Final = "use client.pubsub()"
_TRANSACTION: Final = "use client.pipeline(), which keeps a connection for it"

#: What to do instead of the commands that are known and refused.
REFUSED: Final[dict[str, str]] = {
    **_each(_EVERYTHING, "FLUSHALL FLUSHDB"),
    **_each(_DATABASE, "MOVE SWAPDB SELECT MIGRATE"),
    **_each(_CONNECTION, "ASKING AUTH HELLO READONLY READWRITE RESET"),
    **_each(_SUBSCRIBE, "SUBSCRIBE PSUBSCRIBE SSUBSCRIBE UNSUBSCRIBE PUNSUBSCRIBE SUNSUBSCRIBE"),
    **_each(_TRANSACTION, "MULTI EXEC"),
    **_each(
        _OTHERS,
        "BGREWRITEAOF BGSAVE DEBUG FAILOVER PFDEBUG PFSELFTEST PSYNC REPLCONF REPLICAOF RESTORE-ASKING SAVE SHUTDOWN SLAVEOF SYNC "
        "ACL CLIENT CLUSTER CONFIG FUNCTION LATENCY MEMORY MODULE SCRIPT SLOWLOG",
    ),
    "RANDOMKEY": "it answers with anybody's key: choose one of client.scan_iter()",
    "DBSIZE": "it counts everybody's keys: count those of client.scan_iter()",
    "MONITOR": "it shows everybody's commands: use it without a key",
    "PUBSUB NUMPAT": "it counts everybody's patterns: use PUBSUB NUMSUB",
}

_UNKNOWN: Final = "use a command whose keys are known, or run it as work of the baseline's: with tenancy.scope(None)"

#: Reads that can be answered with the baseline's value as well as with the key's own: `RedisPartition(read_through=True)`.
READS: Final = frozenset(
    _each(
        None,
        "BITCOUNT BITFIELD_RO BITPOS DUMP EXISTS EXPIRETIME GEODIST GEOHASH GEOPOS GEORADIUS_RO GEORADIUSBYMEMBER_RO GEOSEARCH GET GETBIT "
        "GETRANGE HEXISTS HEXPIRETIME HGET HGETALL HKEYS HLEN HMGET HPEXPIRETIME HPTTL HRANDFIELD HSCAN HSTRLEN HTTL HVALS LCS LINDEX LLEN "
        "LPOS LRANGE MGET PEXPIRETIME PTTL SCARD SDIFF SINTER SINTERCARD SISMEMBER SMEMBERS SMISMEMBER SRANDMEMBER SSCAN STRLEN SUBSTR "
        "SUNION TTL TYPE XLEN XRANGE XREVRANGE ZCARD ZCOUNT ZDIFF ZINTER ZINTERCARD ZLEXCOUNT ZMSCORE ZRANDMEMBER ZRANGE ZRANGEBYLEX "
        "ZRANGEBYSCORE ZRANK ZREVRANGE ZREVRANGEBYLEX ZREVRANGEBYSCORE ZREVRANK ZSCAN ZSCORE ZUNION",
    )
)

_QUEUE: Final = "it takes work from a queue, and what is in a copy of the baseline's would be done twice"
_MERGED: Final = "its answer would have to be put together from the key's and the baseline's"

#: Why some commands are refused where the baseline's values are read through.
NOT_THROUGH: Final[dict[str, str]] = {
    **_each(
        _QUEUE, "BLMOVE BLMPOP BLPOP BRPOP BRPOPLPUSH BZMPOP BZPOPMAX BZPOPMIN XACK XACKDEL XAUTOCLAIM XCLAIM XREAD XREADGROUP"
    ),
    **_each(_MERGED, "KEYS SCAN SORT SORT_RO"),
}


def find(words: Words) -> tuple[str, Command, int]:
    """
    Return a command's name, what is known of it, and the position of its first argument.

    Args:
        words: The command as redis-py takes it: the first word may hold the name of a container too, as in ``CONFIG GET``.

    Raises:
        PartitionError: If it cannot be kept to one routing key; the message says what to do.
    """
    given = words[0]
    if isinstance(given, str):
        known = COMMANDS.get(given)
        if known is not None and (given != "COMMAND" or len(words) == 1):
            return given, known, 1
        parts = given.encode("utf-8", "surrogatepass").split()  # as redis-py splits it
    elif isinstance(given, bytes):
        parts = given.split() if b" " in given else [given]
    else:
        raise PartitionError(f"the name of a command is {shown(given)}: give text or bytes")
    name, at = _name(parts, words)
    known = COMMANDS.get(name)
    if known is None:
        hint = REFUSED.get(name) or REFUSED.get(name.partition(" ")[0]) or _UNKNOWN
        raise PartitionError(f"{shown(name)[1:-1]} cannot be kept to one routing key: {hint}")
    if len(parts) > 1 + (" " in name and at == 1):
        raise PartitionError(f"{shown(given)} holds a command's name and its arguments: give each as an argument of its own")
    return name, known, at


def _name(parts: list[bytes], words: Words) -> tuple[str, int]:
    first = parts[0].decode("latin-1").upper() if parts else ""
    if first not in CONTAINERS:
        return first, 1
    if len(parts) > 1:
        return f"{first} {parts[1].decode('latin-1').upper()}", 1
    second = words[1] if len(words) > 1 else None
    if isinstance(second, bytes):
        second = second.decode("latin-1")
    return (f"{first} {second.upper()}", 2) if isinstance(second, str) else (first, 1)


def name_of(words: Words) -> str:
    """
    Return what a command is called in a message.
    """
    return shown(words[0])[1:-1] if isinstance(words[0], str) else shown(words[0])
