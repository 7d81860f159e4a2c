"""
The sieve says of a whole batch what the codec says of each carrier.
"""

from __future__ import annotations

from typing import Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tenancy.baggage import ABSENT, Codec
from tenancy.config import DIALECTS, Field
from tenancy.messaging.kafka.sieve import Sieve

_PLAIN = (Field("baggage", "sd-routing-key"),)
_NAMES = st.sampled_from(["baggage", "traceparent", "Baggage", "uberctx-sd-routing-key", "tracestate", "other", ""])
_VALUES = st.one_of(
    st.none(),
    st.binary(max_size=12),
    st.sampled_from(
        [
            *(b"sd-routing-key=pr-1", b"a=1,sd-routing-key=pr-2,b=2", b"a=1", b"a=1\nb=2", b"sd%2Drouting-key=pr-3"),
            *(b"sd-routing-key=PR", b"xsd-routing-key=pr-4", b"sd-routing-key=pr-1,sd-routing-key=pr-2", b"pr-5"),
            *(b"sd-routing-key=pr-6;ttl=1", b"\xe9=1", b"\nsd-routing-key=pr-7", b"%"),
        ]
    ),
)
_FREE = [("traceparent", b"1"), ("baggage", b"a=1")]
_KEYED = [("traceparent", b"1"), ("baggage", b"a=1,sd-routing-key=pr-2,b=2")]
# Mostly what OpenTelemetry writes, so that batches of such are met too.
_CARRIERS = st.one_of(
    st.just(_FREE),
    st.just(_KEYED),
    st.builds(lambda value: [("traceparent", b"1"), ("baggage", value)], _VALUES),
    st.none(),
    st.lists(st.tuples(_NAMES, _VALUES), max_size=4),
)
_BATCHES = st.lists(st.lists(_CARRIERS, max_size=8), max_size=5)


@pytest.mark.parametrize("read", [_PLAIN, DIALECTS["signadot"]], ids=["one field", "a dialect"])
@given(_BATCHES)
@example([[_FREE], [_FREE, _KEYED, _FREE, _FREE], [_FREE, _KEYED, _FREE], [_KEYED, _KEYED]])
@example([[_FREE], [_FREE] * 4, [_FREE, None, [("baggage", b"sd-routing-key=pr-1")], _FREE, _FREE, _FREE], [_KEYED]])
@example([[_FREE], [_FREE, [("traceparent", b"1"), ("baggage", b"x\nsd-routing-key=pr-1")], _FREE, _KEYED]])
def test_a_batch_is_looked_through_as_each_carrier_is_read(read: tuple[Field, ...], batches: list[list[Any]]) -> None:
    """Of what is left out nothing is read, and bytes that are told are the key, as far as they can be one."""
    using = Codec(read, _PLAIN)
    sieve = Sieve(using)
    for batch in batches:
        for carrier in batch:
            using.read(carrier)  # makes known which names have nothing to do with it
        found = sieve.keyed(batch)
        scanned = [(at, using.scan(carrier)) for at, carrier in enumerate(batch) if carrier]
        assert found == [(at, raw) for at, raw in scanned if raw is not False]
        told = dict(found)
        for at, carrier in enumerate(batch):
            reading = using.read(carrier)
            if at not in told:
                assert reading == ABSENT, carrier
            elif not isinstance(told[at], bool):
                raw = cast(bytes, told[at])
                assert (reading.key or reading.malformed or "").encode("latin-1") in (raw, raw.partition(b";")[0].strip()), carrier


def test_what_comes_again_and_again_is_compared() -> None:
    """A sieve that has learned what the headers of a topic are finds a key among them, and forgets them when others come."""
    using = Codec(_PLAIN, _PLAIN)
    sieve = Sieve(using)
    using.read(_FREE)
    for _ in range(3):
        assert sieve.keyed([list(_FREE), list(_FREE), list(_KEYED), list(_FREE)]) == [(2, b"pr-2")]
    assert sieve._same == _FREE
    others = [[("traceparent", b"%d" % number), ("baggage", b"sd-routing-key=pr-3")] for number in range(4)]
    assert sieve.keyed(others) == [(at, b"pr-3") for at in range(4)]
    assert sieve._same is None
