"""
Where names stand in commands, held against what a real server says of each command that it has.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import redis as client_library
from redis._parsers import Encoder

from tenancy.data._redis_commands import COMMANDS, CONTAINERS, LISTING, NOT_THROUGH, READS, REFUSED, find
from tenancy.data._redis_names import Names
from tenancy.data._redis_rewrite import rewrite
from tenancy.errors import PartitionError
from tenancy.key import RoutingKey
from tests.data.redis_partition.conftest import text

encode = Encoder("utf-8", "strict", decode_responses=False).encode
PART = Names("shop").parts[RoutingKey("pr-42")]

#: Commands whose names stand where a number or a word says, in many forms.
MOVABLE = [
    *(
        f"{name} {tail}"
        for name in ("EVAL", "EVALSHA", "EVAL_RO", "EVALSHA_RO", "FCALL", "FCALL_RO")
        for tail in ("s 1 a", "s 2 a b c d")
    ),
    *("XREAD STREAMS a 0", "XREAD COUNT 1 BLOCK 2 STREAMS a b 0 $", "xread block 1 streams streams count 0 0"),
    *("XREADGROUP GROUP g c STREAMS a >", "XREADGROUP GROUP STREAMS STREAMS COUNT 1 NOACK STREAMS a b > >"),
    *("XREADGROUP GROUP NOACK COUNT BLOCK 5 NOACK STREAMS a >",),
    *(f"{name} {tail}" for name in ("SINTERCARD", "ZINTERCARD") for tail in ("1 a", "2 a b", "2 a b LIMIT 1")),
    *(f"{name} {tail}" for name in ("ZUNION", "ZINTER") for tail in ("1 a", "2 a b WEIGHTS 1 2 AGGREGATE SUM WITHSCORES")),
    *("ZDIFF 1 a", "ZDIFF 2 a b WITHSCORES", "ZDIFFSTORE d 2 a b"),
    *(f"{name} {tail}" for name in ("ZUNIONSTORE", "ZINTERSTORE") for tail in ("d 1 a", "d 2 a b WEIGHTS 1 2 AGGREGATE MAX")),
    *(f"{name} {tail}" for name in ("LMPOP", "BLMPOP 1") for tail in ("1 a LEFT", "2 a b RIGHT COUNT 3")),
    *(f"{name} {tail}" for name in ("ZMPOP", "BZMPOP 1") for tail in ("1 a MIN", "2 a b MAX COUNT 3")),
    *("GEORADIUS a 1 2 3 m", "GEORADIUS a 1 2 3 m WITHDIST COUNT 1 ANY ASC STORE b", "GEORADIUS a 1 2 3 m STOREDIST b"),
    *("GEORADIUSBYMEMBER a STORE 3 m", "GEORADIUSBYMEMBER a m 3 m STORE b", "georadiusbymember a m 3 m storedist store"),
    *(
        "SORT a",
        "SORT a LIMIT 0 1 DESC ALPHA STORE b",
        "SORT a BY nosort GET # STORE b",
        "SORT a BY STORE STORE GET",
        "SORT_RO a ASC",
    ),
]

#: Patterns and channels are no keys, but are made the routing key's own all the same.
NO_KEYS = {"KEYS", "SCAN", "PUBLISH", "PUBSUB CHANNELS", "PUBSUB NUMSUB", "PUBSUB SHARDCHANNELS", "PUBSUB SHARDNUMSUB", "SPUBLISH"}


def own_words(words: list[Any]) -> list[str]:
    """
    Return which words of a command are made the routing key's own.
    """
    changed = rewrite(PART, tuple(words), {}, encode)[0]
    return [word for word, now in zip(words, changed, strict=False) if isinstance(word, str) and now == PART.prefix + word]


def servers_keys(plain: client_library.Redis, words: list[str]) -> list[str] | None:
    """
    Return which words a server takes for keys; None where it does not take the command at all.
    """
    try:
        return text(plain.execute_command("COMMAND GETKEYS", *words))
    except client_library.ResponseError as error:
        if "no key arguments" in str(error):
            return []
        if str(error).startswith(("Invalid ", "wrong number of arguments")):
            return None
        raise


def described(plain: client_library.Redis) -> dict[str, int]:
    """
    Return the least number of words of each command that the server has, subcommands under both words.
    """
    script = "return redis.call('COMMAND')"
    rows: Any = plain.eval(script, 0)
    found: dict[str, int] = {}
    for row in rows:
        children = row[9] if len(row) > 9 else []
        for child in children:
            name = child[0].decode().replace("|", " ").upper()
            found[name] = abs(child[1])
        if not children or row[0] == b"command":
            found[row[0].decode().upper()] = abs(row[1])
    return found


@pytest.mark.service
def test_the_server_agrees_about_every_command(plain: client_library.Redis) -> None:
    """Each command of the server is refused, or has its names where the server says; given with as few words as it takes, and with more."""
    wrong, compared, refused = [], set(), set()
    for name, arity in described(plain).items():
        words = name.split()
        if name not in COMMANDS:
            with pytest.raises(PartitionError):
                find([*words, "a1", "a2", "a3"])
            assert name in REFUSED or name.partition(" ")[0] in REFUSED, f"nobody has decided about {name}"
            continue
        for more in range(6):
            arguments = [f"a{number}" for number in range(max(arity - len(words), 0) + more)]
            theirs = servers_keys(plain, [*words, *arguments])
            if theirs is None:
                continue
            try:
                ours = own_words([*words, *arguments])
            except PartitionError:
                refused.add(name)
                continue
            compared.add(name)
            if theirs if name in NO_KEYS else ours != theirs:
                wrong.append((name, arguments, ours, theirs))
    assert not wrong
    # What is refused unless it has a certain form has that form in the samples of the next test; COPY and SCAN with an option that is none.
    sampled = {line.split()[0].upper() for line in MOVABLE}
    assert refused <= sampled | {"COPY", "SCAN"}
    assert (set(described(plain)) & set(COMMANDS)) - compared <= sampled | {"COMMAND"}


@pytest.mark.service
@pytest.mark.parametrize("line", MOVABLE)
def test_the_server_agrees_about_movable_keys(plain: client_library.Redis, line: str) -> None:
    """Where a number or a word says where the names stand, the server reads it as we do."""
    words = line.split()
    if words[0].upper() not in described(plain):
        pytest.skip(f"this server has no {words[0]}")
    assert sorted(own_words(words)) == sorted(servers_keys(plain, words) or [])
    assert own_words(words)


@pytest.mark.service
def test_every_movable_command_of_the_server_is_among_the_samples(plain: client_library.Redis) -> None:
    """What the first test cannot make up words for has some above."""
    rows: Any = plain.eval("return redis.call('COMMAND')", 0)
    movable = {row[0].decode().upper() for row in rows if b"movablekeys" in flags(row)}
    assert movable - {line.split()[0].upper() for line in MOVABLE} <= set(REFUSED)


def flags(row: Any) -> list[bytes]:
    return [flag["ok"].encode() if isinstance(flag, dict) else flag for flag in row[2]]


@pytest.mark.service
def test_reads_only_read(plain: client_library.Redis) -> None:
    """What may be answered with the baseline's value is what the server calls a read, of all its keys."""
    rows: Any = plain.eval("return redis.call('COMMAND')", 0)
    readonly = {row[0].decode().upper() for row in rows if b"readonly" in flags(row)}
    assert (READS & set(described(plain))) - readonly == set()
    # Nothing that only reads is left out but on purpose: scripts, and what the server counts as a read although it changes something.
    others = {"EVAL_RO", "EVALSHA_RO", "FCALL_RO", "LOLWUT", "PFCOUNT", "TOUCH", "XPENDING"}
    assert readonly & set(COMMANDS) - READS - set(NOT_THROUGH) <= others


def test_the_tables_are_consistent() -> None:
    """No command is allowed and refused, and every read and every listing is known."""
    assert not set(COMMANDS) & set(REFUSED)
    assert {*READS, *NOT_THROUGH, *LISTING} <= set(COMMANDS)
    assert not READS & set(NOT_THROUGH)
    assert {name.partition(" ")[0] for name in COMMANDS if " " in name} <= CONTAINERS
    for name in COMMANDS:
        assert name == name.upper()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("get", "a"), ["a"]),
        ((b"GET", "a"), ["a"]),
        ((b"MEMORY USAGE", "a"), ["a"]),
        (("memory usage", "a"), ["a"]),
        (("MEMORY", "usage", "a"), ["a"]),
        (("MEMORY", b"USAGE", "a"), ["a"]),
        (("OBJECT", "encoding", "a"), ["a"]),
        (("XINFO STREAM", "a", "FULL"), ["a"]),
        (("XGROUP", "CREATE", "a", "g", "$"), ["a"]),
        (("MSETEX", 2, "a", "1", "b", "2", "EX", "3"), ["a", "b"]),
        (("BITOP", "AND", "d", "a", "b"), ["d", "a", "b"]),
        (("SORT", "a", "BY", "w_*", "GET", "#", "GET", "o_*->f", "STORE", "d"), ["a", "w_*", "o_*->f", "d"]),
        (("SCAN", 0, "MATCH", "a*", "COUNT", 3, "TYPE", "match"), ["a*"]),
        (("scan", 0, "type", "MATCH", "match", "a*"), ["a*"]),
        (("PUBSUB NUMSUB", "a", "b"), ["a", "b"]),
        (("PUBSUB", "CHANNELS", "a*"), ["a*"]),
        (("GET",), []),
        (("BLPOP", 5), []),
        (("ZUNIONSTORE",), []),
        (("EVAL", "return 1"), []),
        (("PING", "a"), []),
        (("CLIENT", "SETNAME", "a"), []),
        (("COMMAND",), []),
        (("COMMAND", "COUNT"), []),
    ],
)
def test_forms_of_a_command(words: tuple[Any, ...], expected: list[str]) -> None:
    """A name may be text or bytes, of either case, with a subcommand in the same word or in the next."""
    assert own_words(list(words)) == expected


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("FLUSHALL",), "drop"),
        (("flushdb", "ASYNC"), "drop"),
        ((b"FLUSHALL",), "drop"),
        (("FLUSHALL ASYNC",), "drop"),
        ((" FLUSHALL\t",), "drop"),
        (("SWAPDB", 0, 1), "another database"),
        (("MOVE", "a", 1), "another database"),
        (("SELECT", 1), "another database"),
        (("COPY", "a", "b", "DB", 1), "another database"),
        (("RANDOMKEY",), "scan_iter"),
        (("DBSIZE",), "scan_iter"),
        (("MONITOR",), "everybody"),
        (("MULTI",), "pipeline"),
        (("SUBSCRIBE", "a"), "pubsub"),
        (("CONFIG", "SET", "a", "b"), "others"),
        (("CONFIG SET", "a", "b"), "others"),
        (("SCRIPT", "FLUSH"), "others"),
        (("FUNCTION", "LOAD", "a"), "others"),
        (("CLIENT", "KILL", "a"), "others"),
        (("CLIENT KILL", "a"), "others"),
        (("CLUSTER", "GETKEYSINSLOT", 1, 1), "others"),
        (("DEBUG", "OBJECT", "a"), "others"),
        (("JSON.SET", "a", "$", "1"), "keys are known"),
        (("FT.SEARCH", "a", "b"), "keys are known"),
        (("HIMPORT SET", "a"), "keys are known"),
        (("NOSUCH", "a"), "keys are known"),
        (("",), "keys are known"),
        (("PUBSUB", "NUMPAT"), "NUMSUB"),
        (("PUBSUB",), "keys are known"),
        (("GET a",), "argument of its own"),
        ((b"GET a", "b"), "argument of its own"),
        (("CONFIG GET a",), "argument of its own"),
        ((bytearray(b"GET"), "a"), "text or bytes"),
        ((None, "a"), "text or bytes"),
        (("EVAL", "return redis.call('GET', 'a')", 0), "declares no keys"),
        (("EVALSHA", "s", "0", "a"), "declares no keys"),
        (("EVAL", "s", 2, "a"), "only 1 words"),
        (("EVAL", "s", -1, "a"), "whole number"),
        (("EVAL", "s", 1.0, "a"), "whole number"),
        (("EVAL", "s", True, "a"), "whole number"),
        (("EVAL", "s", "1_0", "a"), "whole number"),
        (("EVAL", "s", "\u0661", "a"), "whole number"),
        (("EVAL", "s", None, "a"), "whole number"),
        (("LMPOP", 9**30, "a"), "whole number"),
        (("XREAD", "COUNT", 1), "STREAMS"),
        (("SORT", "a", "WITH", "b"), "option of SORT"),
        (("SCAN", 0, "WITH", "b"), "option of SCAN"),
        (("PUBLISH", "__keyevent@0__:del", "a"), "everybody"),
    ],
)
def test_what_cannot_be_kept_to_a_key_is_refused(words: tuple[Any, ...], reason: str) -> None:
    """The message says what to do instead."""
    with pytest.raises(PartitionError, match=reason):
        rewrite(PART, words, {}, encode)


def test_every_word_that_could_be_an_option_can_be_a_name() -> None:
    """A key called as an option is a key where a key is due, and no option makes a name of what is none."""
    options = ["STORE", "BY", "GET", "STREAMS", "GROUP", "NOACK", "COUNT", "LIMIT"]
    for one, two in itertools.product(options, options):
        assert own_words(["SORT", one, "STORE", two]) == [one, two] or one == two
        assert own_words(["XREAD", "COUNT", "1", "STREAMS", one, two, "0", "0"])[-2:] == [one, two]
        changed = rewrite(PART, ("XREADGROUP", "GROUP", one, two, "NOACK", "STREAMS", "a", ">"), {}, encode)[0]
        assert changed == ("XREADGROUP", "GROUP", one, two, "NOACK", "STREAMS", PART.prefix + "a", ">")
