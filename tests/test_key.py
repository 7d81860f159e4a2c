from __future__ import annotations

import copy
import json
import pickle
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenancy import InvalidRoutingKeyError, RoutingKey, TenancyError
from tenancy.key import RESERVED

GRAMMAR = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


@pytest.mark.parametrize("value", ["pr-42", "a", "0", "a" * 63, "a--b", "9-9"])
def test_a_dns_label_is_a_key(value: str) -> None:
    """A DNS label in lower case is a routing key, and still the same string."""
    key = RoutingKey(value)
    assert key == value
    assert str(key) == f"{key}" == value
    assert hash(key) == hash(value)
    assert json.dumps({"key": key}) == json.dumps({"key": value})
    assert repr(key) == f"RoutingKey({value!r})"


@pytest.mark.parametrize(
    "value",
    [
        "",
        "-a",
        "a-",
        "A",
        "a_b",
        "a.b",
        "a b",
        "a\n",
        "é",
        "a" * 64,
        "x" * 100_000,
        "٣",
        *sorted(RESERVED),
        None,
        42,
        b"pr-42",
        True,
    ],
)
def test_anything_else_is_not(value: object) -> None:
    """What breaks the grammar or is reserved raises an error that shows it, and parses to None."""
    with pytest.raises(InvalidRoutingKeyError) as caught:
        RoutingKey(value)  # type: ignore[arg-type]
    assert isinstance(caught.value, (ValueError, TenancyError))
    assert len(str(caught.value)) < 300
    assert RoutingKey.parse(value) is None


@given(st.text(max_size=70))
def test_parse_agrees_with_the_grammar(value: str) -> None:
    """Parsing accepts exactly the grammar, less the reserved words."""
    assert (RoutingKey.parse(value) is not None) == (GRAMMAR.fullmatch(value) is not None and value not in RESERVED)


def test_keys_survive_copies_and_processes() -> None:
    """A copied or pickled key is a key."""
    key = RoutingKey("pr-42")
    for same in (copy.copy(key), copy.deepcopy(key), pickle.loads(pickle.dumps(key)), RoutingKey(key), RoutingKey.parse(key)):
        assert same == key
        assert type(same) is RoutingKey
