from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from opentelemetry import baggage
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context

from tenancy import RoutingKey
from tenancy.baggage import ABSENT, MAX_BYTES, MAX_MEMBERS, Codec, Reading, members
from tenancy.config import DIALECTS, Field
from tests.fuzz.cases import FIELDS, NAMES, SHAPES, Case
from tests.fuzz.oracles import check, codecs

CODEC = Codec(DIALECTS["signadot"], (Field("baggage", "sd-routing-key"),))
ALL = Codec(DIALECTS["signadot"], DIALECTS["signadot"])
EVERY = codecs()
KEY = RoutingKey("pr-42")

entries = st.lists(
    st.sampled_from(
        [
            *("a=1", " b = 2 ", "", " ", "=", "x", "k=a%2Cb", "k=\xff", "a=1;sd-routing-key=p", "SD-Routing-Key=pr-3"),
            *("sd-routing-key=pr-1", "sd-routing-key=pr-2;ttl=1", "sd%2Drouting-key=pr-4", "+sd-routing-key=pr-5"),
            *("sd-routing-key=p%72-6", "sd-routing-key", "sd-routing-key=PR"),
        ]
    )
    | st.text(max_size=20),
    max_size=8,
)


NESTED: Any = {}
for _ in range(5000):
    NESTED = {"baggage": [NESTED, {"DataType": "String", "StringValue": NESTED}]}


class Multi:
    """A multi-dictionary in httpx's manner."""

    def __init__(self, *pairs: tuple[str, str]) -> None:
        self.pairs = list(pairs)

    def multi_items(self) -> list[tuple[str, str]]:
        return self.pairs


@pytest.mark.parametrize(
    "carrier",
    [
        {"baggage": "a=1,sd-routing-key=pr-42"},
        {"Baggage": b"sd-routing-key=pr-42"},
        {b"BAGGAGE": b"sd-routing-key=pr-42"},
        [("baggage", "a=1"), ("baggage", "sd-routing-key=pr-42")],
        [(b"host", b"x"), (b"baggage", b"sd-routing-key=pr-42")],
        (("x-bin", b"\xff"), ("baggage", "sd-routing-key=pr-42")),
        [("other", None), ("baggage", b"sd-routing-key=pr-42"), ("none", None)],
        {"baggage": ["a=1", "sd-routing-key=pr-42"], "n": 1},
        {"baggage": {"DataType": "String", "StringValue": "sd-routing-key=pr-42"}},
        {"baggage": {"dataType": "String", "stringValue": "sd-routing-key=pr-42"}},
        Multi(("baggage", "a=1"), ("Baggage", "sd-routing-key=pr-42")),
        {"baggage": bytearray(b"sd-routing-key=pr-42")},
        {"ot-baggage-sd-routing-key": "pr-42"},
        [(b"UberCtx-SD-Routing-Key", b" pr-42 ")],
        {"tracestate": "vendor=1, sd-routing-key=pr-42"},
    ],
)
def test_every_shape_of_carrier_is_read(carrier: Any) -> None:
    """The key is found in text and bytes, in any case, in every shape that libraries use."""
    assert CODEC.read(carrier) == Reading(KEY)


@pytest.mark.parametrize(
    "carrier", [None, {}, [], (), "baggage", 42, object(), [1, 2], [("a",)], {1: 2}, {"baggage": None}, {"baggage": 5}]
)
def test_what_has_no_headers_has_no_key(carrier: Any) -> None:
    """Anything that is no carrier reads as absent and does not raise."""
    assert CODEC.read(carrier) == ABSENT


@pytest.mark.parametrize(
    ("raw", "reading"),
    [
        ("sd-routing-key=pr-1,sd-routing-key=pr-2", Reading(RoutingKey("pr-2"), None, True)),
        ("sd-routing-key=pr-1,sd-routing-key=pr-1", Reading(RoutingKey("pr-1"))),
        ("sd-routing-key=pr-1,sd-routing-key=BAD", Reading(None, "BAD", True)),
        ("sd-routing-key=BAD,sd-routing-key=pr-1", Reading(RoutingKey("pr-1"), None, True)),
        ("sd-routing-key=", Reading(None, "")),
        ("sd-routing-key", ABSENT),
        ("sd-routing-key =\tpr-42 ; a=1; b", Reading(KEY)),
        ("sd-routing-key=pr%2D42", Reading(KEY)),
        ("sd-routing-key=baseline", Reading(None, "baseline")),
        ("SD-ROUTING-KEY=pr-42", ABSENT),
        ("x-sd-routing-key=pr-42,sd-routing-key-2=pr-42,a=sd-routing-key=pr-42", ABSENT),
        ("a=1;sd-routing-key=pr-42", ABSENT),
        ("sd%2drouting-key=pr-42", Reading(KEY)),
        ("sd-routing-key=+pr-42", Reading(KEY)),
        ("+sd-routing-key=pr-42", Reading(KEY)),
        ("sd-routing-key =pr-1,sd-routing-key=pr-42", Reading(KEY, None, True)),
        ("%73d-routing-key=pr-42", Reading(KEY)),
    ],
)
def test_the_header_is_read_by_the_rules(raw: str, reading: Reading) -> None:
    """The last member wins, properties go, names and values are percent-decoded, near misses are none of ours."""
    assert CODEC.read_baggage(raw) == reading
    assert CODEC.read({"baggage": raw}) == reading


def test_dialects_are_read_in_order_and_conflicts_are_told() -> None:
    """The first field that is there wins; another value elsewhere is a conflict, the same one is not."""
    headers = {"baggage": "sd-routing-key=pr-1", "ot-baggage-sd-routing-key": "pr-2"}
    assert CODEC.read(headers) == Reading(RoutingKey("pr-1"), None, True)
    assert CODEC.read({**headers, "ot-baggage-sd-routing-key": "pr-1"}) == Reading(RoutingKey("pr-1"))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, {"baggage": "sd-routing-key=pr-42"}),
        ([], [("baggage", "sd-routing-key=pr-42")]),
        ({"Baggage": "a=1;p , sd-routing-key=old,b=%20"}, {"baggage": "sd-routing-key=pr-42,a=1;p ,b=%20"}),
        ([(b"x", b"1"), (b"Baggage", b"a=1"), (b"baggage", b"b=2")], [(b"x", b"1"), (b"baggage", b"sd-routing-key=pr-42,a=1,b=2")]),
        ((("x", "1"),), (("x", "1"), ("baggage", "sd-routing-key=pr-42"))),
        ([("n", None), ("x", b"\xff")], [("n", None), ("x", b"\xff"), ("baggage", b"sd-routing-key=pr-42")]),
        (
            {"ot-baggage-sd-routing-key": "old", "tracestate": "v=1,sd-routing-key=old"},
            {"tracestate": "v=1", "baggage": "sd-routing-key=pr-42"},
        ),
        (
            {"a": {"DataType": "String", "StringValue": "1"}},
            {
                "a": {"DataType": "String", "StringValue": "1"},
                "baggage": {"DataType": "String", "StringValue": "sd-routing-key=pr-42"},
            },
        ),
        ([("baggage", b"k=\xff\xfe,sd%2Drouting-key=old")], [("baggage", b"sd-routing-key=pr-42,k=\xff\xfe")]),
    ],
)
def test_the_writer_makes_a_new_carrier_with_one_entry(before: Any, after: Any) -> None:
    """Ours stands once and first, others keep their bytes, the shape stays, the original is untouched."""
    original = copy.deepcopy(before)
    assert CODEC.write(before, KEY).carrier == after
    assert before == original


def test_without_a_key_ours_are_removed() -> None:
    """Writing no key takes every spelling and dialect of ours out, and leaves the rest."""
    before = {
        "Baggage": "a=1,sd-routing-key=x,%73d-routing-key=y",
        "uberctx-sd-routing-key": "x",
        "tracestate": "sd-routing-key=x",
        "h": "1",
    }
    assert CODEC.write(before, None).carrier == {"h": "1", "baggage": "a=1"}
    assert CODEC.write([("baggage", "sd-routing-key=x")], None).carrier == []


def test_several_fields_can_be_written() -> None:
    """Each written field says the key."""
    assert ALL.write({"tracestate": "v=1"}, KEY).carrier == {
        "baggage": "sd-routing-key=pr-42",
        "tracestate": "sd-routing-key=pr-42,v=1",
        "ot-baggage-sd-routing-key": "pr-42",
        "uberctx-sd-routing-key": "pr-42",
    }


def test_limits_cost_trailing_members_of_others_never_the_key() -> None:
    """Over 180 members or 8192 bytes, whole members go from the end, counted; the standard propagator then reads the key."""
    many = ",".join(f"k{number}=v" for number in range(300))
    written = CODEC.write({"baggage": many}, KEY)
    assert written.dropped == 300 - MAX_MEMBERS + 1
    assert written.carrier["baggage"].count(",") == MAX_MEMBERS - 1
    big = ",".join(f"k{number}={'v' * 1000}" for number in range(20))
    written = CODEC.write({"baggage": big}, KEY)
    assert len(written.carrier["baggage"]) <= MAX_BYTES
    assert written.dropped > 0
    assert baggage.get_baggage("sd-routing-key", W3CBaggagePropagator().extract(written.carrier, Context())) == "pr-42"
    assert CODEC.write({"baggage": many}, None) == ({"baggage": many}, 0)


@pytest.mark.parametrize("size", range(MAX_BYTES - 30, MAX_BYTES + 3))
def test_dictionaries_and_pairs_meet_the_same_limits(size: int) -> None:
    """Near the limits, the short way for dictionaries writes and drops just what the long way does."""
    line = ",".join(["a=1"] * 3 + ["b=" + "x" * (size - 14)])
    as_dictionary, as_pairs = CODEC.write({"baggage": line}, KEY), CODEC.write([("baggage", line)], KEY)
    assert list(as_dictionary.carrier.items()) == as_pairs.carrier
    assert as_dictionary.dropped == as_pairs.dropped
    many = ",".join(["a=1"] * (size - MAX_BYTES + MAX_MEMBERS))
    assert list(CODEC.write({"baggage": many}, KEY).carrier.items()) == CODEC.write([("baggage", many)], KEY).carrier


@given(entries)
@example(["sd-routing-key=pr-1", "sd%2Drouting-key=PR"])
@settings(max_examples=500)
def test_reading_never_raises_and_agrees_with_the_standard(parts: list[str]) -> None:
    """Where the standard propagator sees one valid key and we see one, it is the same; where it sees a key, so do we."""
    raw = ",".join(parts)
    reading = CODEC.read_baggage(raw)
    assert CODEC.read([(b"baggage", raw.encode("utf-8", "surrogatepass"))]) is not None
    theirs = baggage.get_baggage("sd-routing-key", W3CBaggagePropagator().extract({"baggage": raw}, Context()))
    if theirs is not None:
        assert reading.key is not None or reading.malformed is not None
        value = str(theirs).partition(";")[0].strip()
        if not reading.conflict and reading.key is not None:
            assert reading.key == value


@given(st.lists(entries.map(",".join), max_size=3), st.sampled_from([KEY, None]))
@settings(max_examples=500)
def test_writing_keeps_others_and_reads_back(lines: list[str], key: RoutingKey | None) -> None:
    """What is written reads back as the key and nothing else, with other people's members in order and byte for byte, but for white
    space at the ends of the whole, which no header may have."""
    before = [("x", "1"), *(("baggage", line) for line in lines)]
    after = CODEC.write(before, key).carrier
    assert CODEC.read(after) == Reading(key)
    values = [value for name, value in after if name == "baggage"]
    assert len(values) <= 1
    others = members(",".join(lines), without=["sd-routing-key"])
    whole = ",".join(["sd-routing-key=pr-42", *others] if key else others).strip(" \t")
    assert values == ([whole] if whole else [])
    theirs = baggage.get_baggage("sd-routing-key", W3CBaggagePropagator().extract(dict(after), Context()))
    assert theirs == key


@given(
    st.builds(
        Case,
        shape=st.sampled_from(list(SHAPES)),
        fields=st.sampled_from(list(FIELDS)),
        binary=st.sampled_from([None, True, False]),
        key=st.sampled_from([KEY, None, RoutingKey("x" * 63)]),
        lines=st.lists(
            st.tuples(
                st.sampled_from(list(NAMES.values())) | st.text(max_size=8),
                entries.map(lambda parts: ",".join(parts).encode("utf-8", "surrogatepass")) | st.binary(max_size=30),
            ),
            max_size=5,
        ),
    )
)
@settings(max_examples=500, deadline=None)
def test_what_holds_in_every_shape(case: Case) -> None:
    """
    Nothing raises, the caller's carrier is as it was, the short ways say what the long ones say, and all of it is what the rules say and
    what the standard propagator reads: `tests/fuzz/oracles.py` in words.
    """
    check(case, EVERY[case.fields])


@pytest.mark.parametrize("binary", [True, False])
def test_half_of_a_surrogate_pair_is_written(binary: bool) -> None:
    """Text that no encoding has a place for is other people's text all the same."""
    written = CODEC.write({"baggage": "a=\ud800"}, KEY, binary=binary).carrier["baggage"]
    assert written == (b"sd-routing-key=pr-42,a=\xed\xa0\x80" if binary else "sd-routing-key=pr-42,a=\ud800")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("sd-routing-key=pr-42", True),
        ("a=1,sd-routing-key=pr-42,b=2", True),
        ("a=1, sd-routing-key=pr-42 ,b=2", False),
        ("a=%20,sd-routing-key=pr-42", False),
        ("sd-routing-key=pr-42;ttl=1", False),
        ("sd-routing-key=%70r-42", False),
        ("sd-routing-key=pr-42,sd-routing-key=pr-42", False),
        ("a=1", False),
        ("sd-routing-key=pr-42," + "a" * 9000, False),
        ("a,b," * 100 + "sd-routing-key=pr-42", False),
    ],
)
def test_the_canonical_form(value: str, expected: bool) -> None:
    """Only a plain member in a single entry within the limits is read alike by every reader of baggage."""
    key = RoutingKey("pr-42")
    assert CODEC.canonical([("x", "1"), ("baggage", value)], key) is expected
    assert not CODEC.canonical([("baggage", value), ("baggage", value)], key)
    assert not CODEC.canonical([("baggage", value), ("ot-baggage-sd-routing-key", "pr-42")], key)
    assert not CODEC.canonical([("baggage", value), ("tracestate", "v=1,sd-routing-key=pr-42")], key)
    assert CODEC.canonical([("baggage", value), ("tracestate", "v=1")], key) is expected


@pytest.mark.parametrize(
    "entry", [None, (), 5, "", object(), {"baggage"}, {"key": "baggage"}, ("x",), ("baggage", "sd-routing-key=pr-1", "z")]
)
@pytest.mark.parametrize("warm", [False, True])
def test_what_is_no_pair_is_passed_over(entry: Any, warm: bool) -> None:
    """Junk among headers is no header, alone or beside others, whatever was read before."""
    codec = Codec(DIALECTS["signadot"], (Field("baggage", "sd-routing-key"),))
    if warm:
        codec.read({"x": "1"})
    assert codec.read([entry]) == ABSENT
    assert codec.read((entry,)) == ABSENT
    assert codec.read([entry, ("baggage", "sd-routing-key=pr-42")]) == Reading(KEY)


def test_invented_names_do_not_push_out_the_usual_ones() -> None:
    """What is remembered of names stays small, and goes on remembering."""
    codec = Codec(DIALECTS["signadot"], (Field("baggage", "sd-routing-key"),))
    for number in range(5000):
        codec.read([(f"x-{number}", "1")])
        codec.read([(f"x-{number}".encode(), b"1")])
    codec.read([("host", "1")])
    codec.read([(b"host", b"1")])
    assert codec.ours([("host", "1")]) == codec.ours([(b"host", b"1")]) == []
    assert len(codec.passed) <= 1024
    assert len(codec._passed_bytes) <= 1024
    assert codec.read([("BAGGAGE", "sd-routing-key=pr-42")]) == Reading(KEY)


@pytest.mark.parametrize(
    ("value", "left"),
    [(b"a=1,b=\xe9", 0), (b"a=%31", 1), (b"a=\\x", 1), (b"a=1,sd-routing-key=pr-42", 1), (b"a=1,sd-routing-key=PR", 1), (None, 1)],
)
def test_of_a_request_that_surely_has_no_key_nothing_is_left(value: Any, left: int) -> None:
    """Its one line of baggage neither names the key nor has anything encoded, in any manner; of two lines both are left."""
    codec = Codec(DIALECTS["signadot"], (Field("baggage", "sd-routing-key"),))
    codec.read([(b"host", b"1")])
    headers = [(b"host", b"1"), (b"baggage", value)]
    assert list(codec.ours(headers)) == headers[1:][:left]
    assert list(codec.ours([*headers, (b"baggage", b"b=2")])) == [(b"baggage", value), (b"baggage", b"b=2")]
    assert list(codec.ours([*headers, (b"tracestate", b"v=1")])) == [(b"baggage", value), (b"tracestate", b"v=1")]


_STRICT = """
from itertools import product
import tenancy
from tenancy.messaging.kafka.sieve import Sieve
from tests.fuzz.cases import FIELDS, SHAPES, Case
from tests.fuzz.oracles import check, codecs

LINES = [
    [("host", b"x"), ("Baggage", b"a=1"), ("tracestate", b"v=1")],
    [("host", b"x"), ("baggage", b"a=1,sd-routing-key=pr-42"), ("BAGGAGE", b"b=2"), ("ot-baggage-sd-routing-key", b"pr-42")],
]
KEY = tenancy.RoutingKey("pr-42")
using = codecs()    # one for all shapes, so that names which it has met as text come as bytes
for _, shape, fields, binary, lines in product(range(2), SHAPES, FIELDS, (None, True, False), LINES):
    check(Case(shape, fields, binary, KEY, lines), using[fields])

both = [("host", "x"), (b"host", b"x"), (b"baggage", b"a=1"), ("baggage", "sd-routing-key=pr-42"), (b"tracestate", b"v=1")]
named = {"host": "x", b"baggage": b"a=1,sd-routing-key=pr-42", b"tracestate": b"v=1"}
for codec, carrier in product(using.values(), (both, both[::-1], named)):
    codec.read(carrier), codec.write(carrier, KEY), codec.write(carrier, None)
    pairs = list(carrier.items()) if isinstance(carrier, dict) else carrier
    codec.canonical(pairs, KEY), codec.ours(pairs), codec.scan(pairs), Sieve(codec).keyed([pairs, pairs, [("host", "x")], [("host", b"x")]])
assert tenancy.extract(both) == tenancy.extract(named) == "pr-42"
assert tenancy.inject(named, key="pr-7") == {"host": "x", "baggage": "sd-routing-key=pr-7,a=1", "tracestate": "v=1"}
tenancy.propagator.TenancyPropagator().extract(named)
"""


def test_nothing_compares_text_with_bytes() -> None:
    """Under `python -bb`, where that raises, every shape of carrier is read and written, also with names of both kinds in one."""
    command = [sys.executable, "-bb", "-W", "error::BytesWarning", "-c", _STRICT]
    ran = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=100, check=False)
    assert ran.returncode == 0, ran.stderr
