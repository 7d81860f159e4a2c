"""
Record keys that are told apart by routing key: no two pairs share one, and each is found again.
"""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tenancy
from tenancy import InvalidRoutingKeyError, RoutingKey
from tenancy.messaging.kafka.record_key import is_namespaced, record_key, split_record_key

SPACES = (None, "a", "b", "a-b", "pr-42", "tenancy", "x" * 63)
PARTS = st.sampled_from(["", ":", "::", "tenancy", "tenancy:", "tenancy::", "a", "a:", "pr-42:", "ü", "\x00", "none"])
KEYS = st.lists(PARTS, max_size=6).map("".join) | st.text()
PAIRS = st.tuples(st.sampled_from(SPACES), KEYS)


@given(PAIRS, PAIRS)
def test_no_two_pairs_share_one(one: tuple[str | None, str], other: tuple[str | None, str]) -> None:
    """As text and as bytes; also keys that look like ours, and those without a routing key."""
    for form in (str, str.encode):
        (a, first), (b, second) = one, other
        same = record_key(form(first), routing_key=a) == record_key(form(second), routing_key=b)
        assert same == (one == other)


@given(PAIRS)
def test_the_way_back(pair: tuple[str | None, str]) -> None:
    """A reader finds both parts, of the type that he gave; text and bytes are the same record key."""
    space, key = pair
    made = record_key(key, routing_key=space)
    assert split_record_key(made) == (space, key)
    assert record_key(key.encode("utf-8", "surrogatepass"), routing_key=space) == made.encode("utf-8", "surrogatepass")
    assert split_record_key(made.encode("utf-8", "surrogatepass")) == (space, key.encode("utf-8", "surrogatepass"))


@given(st.binary(max_size=20))
def test_any_bytes_are_a_record_key(key: bytes) -> None:
    """Nothing is made of them that is not text, and nothing raises."""
    assert split_record_key(record_key(key, routing_key="pr-42")) == (RoutingKey("pr-42"), key)
    split_record_key(b"tenancy:" + key)
    split_record_key(b"tenancy:" + key + b":x")


def test_what_is_ours_to_see() -> None:
    """Only the routing key's own record keys count as told apart for it, as text or as bytes."""
    spaces = [space for space in SPACES if space is not None]
    for (a, b), key in product(product(spaces, spaces), ("k", "", "tenancy:b:k")):
        assert is_namespaced(record_key(key, routing_key=a), RoutingKey(b)) == (a == b)
        assert is_namespaced(record_key(key.encode(), routing_key=a), RoutingKey(b)) == (a == b)
    assert not any(is_namespaced(key, RoutingKey("a")) for key in ("k", b"k", "tenancy:", "tenancy::a:k", "a:k", None, 5, {"a": 1}))


def test_the_current_routing_key_is_taken() -> None:
    """By default; another may be named, but none that is no routing key."""
    assert record_key("k") == "k"
    with tenancy.scope("pr-42"):
        assert record_key("k") == "tenancy:pr-42:k"
        assert record_key(b"k") == b"tenancy:pr-42:k"
        assert record_key("k", routing_key="pr-7") == "tenancy:pr-7:k"
        assert record_key("k", routing_key=None) == "k"
        with pytest.raises(InvalidRoutingKeyError):
            record_key("k", routing_key="PR 7")
