from __future__ import annotations

import re
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenancy import ConfigurationError, InvalidRoutingKeyError, find_partition_key, partition_name
from tenancy.key import RESERVED
from tenancy.naming import PartitionKind

KINDS: tuple[PartitionKind, ...] = get_args(PartitionKind)

VALID: dict[PartitionKind, str] = {
    "postgresql-schema": r"(?!pg_)[a-z][a-z0-9_]{0,62}",
    "mysql-database": r"[a-z][a-z0-9_]{0,63}",
    "redis-prefix": r"[!-~]{1,511}:",
    "s3-prefix": r"[!-~]{1,511}/",
    "kafka-topic": r"(?!\.{1,2}$)[a-zA-Z0-9._-]{1,249}",
    "kafka-group": r"[!-~]{1,249}",
    "amqp-queue": r"(?!amq\.)[!-~]{1,255}",
    "amqp-handover": r"(?!amq\.)[!-?A-~]{1,224}",
    "kubernetes-name": r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?",
}

keys = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True).filter(lambda key: key not in RESERVED)
bases = st.one_of(
    st.text(min_size=1, max_size=300),
    st.from_regex(r"[a-z]([a-z0-9_.:/-]{0,80}[a-z0-9])?", fullmatch=True),
    st.sampled_from(
        ["pg_x", "amq.x", "__", "--", "..", "Shop", "shop", "1shop", "shöp", "a__b", "a--b", "a_", "shop:orders:", "/"]
    ),
)
# Close relatives, where a careless rule would let two meet.
close = st.from_regex(r"[a-c-]{1,5}", fullmatch=True)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("postgresql-schema", "shop__pr_42"),
        ("mysql-database", "shop__pr_42"),
        ("redis-prefix", "tenancy:pr-42:shop:"),
        ("s3-prefix", "tenancy/pr-42/shop/"),
        ("kafka-topic", "shop.pr-42"),
        ("kafka-group", "shop.pr-42"),
        ("amqp-queue", "shop.pr-42"),
        ("amqp-handover", "shop.pr-42"),
        ("kubernetes-name", "shop--pr-42"),
    ],
)
def test_ordinary_names_can_be_read(kind: PartitionKind, name: str) -> None:
    """An ordinary base and key give a name that a person can take apart."""
    assert partition_name("pr-42", "shop", kind=kind) == name


@pytest.mark.parametrize("kind", KINDS)
@given(key=keys, base=bases)
def test_names_fit_their_server(kind: PartitionKind, key: str, base: str) -> None:
    """Whatever the base, the name is one that the server takes as it is, without quotes and uncut."""
    name = partition_name(key, base, kind=kind)
    assert re.fullmatch(VALID[kind], name), name
    assert name == partition_name(key, base, kind=kind)


@pytest.mark.parametrize("kind", KINDS)
@given(first=st.tuples(keys | close, bases | close), second=st.tuples(keys | close, bases | close))
def test_two_keys_never_share_a_name(kind: PartitionKind, first: tuple[str, str], second: tuple[str, str]) -> None:
    """Different keys have different names, also under different bases."""
    try:
        one, two = partition_name(*first, kind=kind), partition_name(*second, kind=kind)
    except InvalidRoutingKeyError:
        return
    if first[0] != second[0]:
        assert one != two
        if kind.endswith("prefix"):
            assert not one.startswith(two)
            assert not two.startswith(one)
    elif first[1] != second[1] and not kind.endswith("prefix"):
        assert one != two


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_pairs_do_not_meet(kind: PartitionKind) -> None:
    """Pairs made to collide under concatenation, truncation or case folding do not."""
    long = "x" * 300
    pairs = [
        ("a", "b-c"), ("b-c", "a"), ("c", "a-b"), ("c", "a_b"), ("b-c", "a_"), ("c", "a__b"), ("b--c", "a"), ("c", "a--b"), ("1", "x-pr"),
        ("pr-1", "x"), ("1", "x_pr"), ("1", "x.pr"), ("pr-1", "X"), ("pr-1", long), ("pr-1", long + "y"), ("pr-2", long), ("a" * 63, "x"),
        ("a" * 62 + "b", "x"), ("a" * 63, long), ("a" * 62 + "b", long), ("a", "b:c"), ("c", "a:b"), ("c", "a/b"), ("a", "b"), ("a", "b:"),
        ("a", "B"), ("a", "b "),
    ]  # fmt: skip
    names = [partition_name(key, base, kind=kind) for key, base in pairs]
    assert len(set(names)) == len(pairs)


@pytest.mark.parametrize("kind", KINDS)
def test_a_hashed_name_cannot_be_imitated(kind: PartitionKind) -> None:
    """Nobody gets the name of another by choosing its parts as base and key."""
    target = partition_name("a" * 63, "y" * 300, kind=kind)
    for separator in ("__", "--", ".", "_", ":", "/"):
        base, _, key = target.rpartition(separator)
        if base:
            try:
                assert partition_name(key, base, kind=kind) != target
            except InvalidRoutingKeyError:
                pass


@pytest.mark.parametrize("kind", KINDS)
def test_the_way_back_is_a_lookup(kind: PartitionKind) -> None:
    """A name found on a server leads to its key, and a foreign one to None."""
    known = [f"pr-{number}" for number in range(50)]
    name = partition_name("pr-42", "shop", kind=kind)
    assert find_partition_key(name, known, "shop", kind=kind) == "pr-42"
    assert find_partition_key(name, known, "other", kind=kind) is None
    assert find_partition_key("shop", known, "shop", kind=kind) is None


def test_bad_input_is_named() -> None:
    """An empty base, an unknown kind and a bad key each raise, and say what to use."""
    with pytest.raises(ConfigurationError, match="base"):
        partition_name("pr-42", "", kind="kafka-topic")
    with pytest.raises(ConfigurationError, match="postgresql-schema"):
        partition_name("pr-42", "shop", kind="schema")  # type: ignore[arg-type]
    with pytest.raises(InvalidRoutingKeyError, match="PR 42"):
        partition_name("PR 42", "shop", kind="kafka-topic")
