from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

import pytest
from opentelemetry import baggage
from opentelemetry import context as otel
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.textmap import Getter, Setter
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

import tenancy
from tenancy import extract, inject, routing_key, scope
from tenancy.context import attached
from tenancy.propagator import TenancyPropagator
from tests.contract import Headers, PropagationContract

W3C, TRACE, OURS = W3CBaggagePropagator(), TraceContextTextMapPropagator(), TenancyPropagator()


class Pairs(Getter[Any], Setter[Any]):
    """A carrier that appends and reads the first, in the manner of OpenTelemetry's Kafka instrumentations."""

    def get(self, carrier: Any, key: str) -> list[str] | None:
        return [value.decode() for name, value in carrier if name == key][:1] or None

    def keys(self, carrier: Any) -> list[str]:
        return [name for name, _ in carrier]

    def set(self, carrier: Any, key: str, value: str) -> None:
        carrier.append((key, value.encode()))


class TestDictionary(PropagationContract):
    """`inject` and `scope` over a plain dictionary."""

    repeats = False

    async def send(self) -> Headers:
        return list(inject({"x": "1"}).items())

    async def receive(self, headers: Headers, body: Any = routing_key) -> Any:
        with scope(dict(headers)):
            return body()


class TestPairs(PropagationContract):
    """`inject` and `scope` over a list of byte pairs."""

    async def send(self) -> Headers:
        return [(name.decode(), value.decode()) for name, value in inject([(b"x", b"1")])]

    async def receive(self, headers: Headers, body: Any = routing_key) -> Any:
        with scope([(name.encode(), value.encode()) for name, value in headers]):
            return body()


class PropagatorContract(PropagationContract):
    repeats = False
    propagator: Any

    async def send(self) -> Headers:
        carrier: dict[str, str] = {}
        self.propagator.inject(carrier)
        return list(carrier.items())

    async def receive(self, headers: Headers, body: Any = routing_key) -> Any:
        with attached(self.propagator.extract(dict(headers), Context())):
            return body()


class TestInsteadOfTheStandard(PropagatorContract):
    """``OTEL_PROPAGATORS=tracecontext,tenancy``."""

    propagator = CompositePropagator([TRACE, OURS])


class TestBesideTheStandard(PropagatorContract):
    """``OTEL_PROPAGATORS=tracecontext,baggage,tenancy``."""

    propagator = CompositePropagator([TRACE, W3C, OURS])


def test_the_entry_point_leads_here() -> None:
    """OpenTelemetry finds the propagator by its name."""
    (entry,) = entry_points(group="opentelemetry_propagator", name="tenancy")
    assert entry.load() is TenancyPropagator


@pytest.mark.parametrize("beside", [True, False])
def test_other_members_pass_through_byte_for_byte(beside: bool) -> None:
    """Properties and odd encodings of others leave as they came; what was changed on the way leaves changed."""
    propagator = CompositePropagator([W3C, OURS] if beside else [OURS])
    raw = "a=1;ttl=5,b=x+y%2C,sd-routing-key=pr-42,c=%E2%9C%93"
    context = propagator.extract({"baggage": raw}, Context())
    assert dict(baggage.get_all(context)) == {"a": "1;ttl=5", "b": "x y,", "c": "✓", "sd-routing-key": "pr-42"}
    carrier: dict[str, str] = {}
    propagator.inject(carrier, baggage.set_baggage("b", "new", context))
    assert carrier == {"baggage": "sd-routing-key=pr-42,a=1;ttl=5,b=new,c=%E2%9C%93"}


def test_without_a_context_it_starts_from_an_empty_one() -> None:
    """Nothing ambient gets into what is extracted."""
    with scope("pr-99"):
        assert routing_key(OURS.extract({})) is None
        assert routing_key(OURS.extract({"baggage": "a=1"})) is None


def test_a_key_that_the_header_does_not_have_is_removed_from_a_given_context() -> None:
    """The header decides, not the context that came along."""
    context = baggage.set_baggage("sd-routing-key", "pr-99", Context())
    assert routing_key(OURS.extract({"baggage": "a=1"}, context)) is None


def test_what_is_no_key_is_not_passed_on() -> None:
    """The standard propagator puts a malformed key into the context; beside ours it does not get out of it again."""
    propagator = CompositePropagator([W3C, OURS])
    context = propagator.extract({"baggage": "sd-routing-key=PR_42"}, Context())
    assert baggage.get_all(context) == {}
    carrier: dict[str, str] = {}
    propagator.inject(carrier, context)
    assert carrier == {}


def test_names_are_found_in_any_case_beside_others() -> None:
    """What the getter finds of one field does not hide another that it does not."""
    assert routing_key(OURS.extract({"Baggage": "sd-routing-key=pr-1", "ot-baggage-sd-routing-key": "pr-2"})) == "pr-1"


def test_an_appending_setter_leaves_one_header() -> None:
    """On a list carrier, stale headers go and both first-wins and last-wins readers see the same key."""
    carrier = [("baggage", b"sd-routing-key=old"), ("x", b"1")]
    with scope("pr-42"):
        CompositePropagator([W3C, OURS]).inject(carrier, setter=Pairs())
    assert carrier == [("x", b"1"), ("baggage", b"sd-routing-key=pr-42")]
    assert routing_key(OURS.extract(carrier, getter=Pairs())) == "pr-42"


def test_a_getter_that_fails_does_not_fail_the_request() -> None:
    """A carrier that the getter cannot read is read without it."""

    class Broken(Getter[Any]):
        def get(self, carrier: Any, key: str) -> list[str] | None:
            raise RuntimeError

        def keys(self, carrier: Any) -> list[str]:
            raise RuntimeError

    assert routing_key(OURS.extract({"Baggage": "sd-routing-key=pr-42"}, getter=Broken())) == "pr-42"


def test_fields() -> None:
    """The propagator tells which headers it writes."""
    assert OURS.fields == {"baggage"}
    tenancy.configure(write="signadot")
    assert OURS.fields == {"baggage", "tracestate", "ot-baggage-sd-routing-key", "uberctx-sd-routing-key"}


def test_inject_says_the_current_key() -> None:
    """The current key replaces what is there; a copy comes back."""
    headers = {"x": "1", "baggage": "sd-routing-key=old,a=1"}
    with scope("pr-42"):
        assert inject(headers) == {"x": "1", "baggage": "sd-routing-key=pr-42,a=1"}
        assert inject() == {"baggage": "sd-routing-key=pr-42"}
        assert inject(headers, key=None) == {"x": "1", "baggage": "a=1"}
        assert inject(headers, key="pr-7") == {"x": "1", "baggage": "sd-routing-key=pr-7,a=1"}
    assert headers == {"x": "1", "baggage": "sd-routing-key=old,a=1"}


def test_inject_without_a_current_key() -> None:
    """What the headers say is kept where nobody said otherwise, and goes where the work was said to have none."""
    headers = [("baggage", "sd-routing-key=a"), ("baggage", "b=1,sd-routing-key=pr-42")]
    assert inject(headers) == [("baggage", "sd-routing-key=pr-42,b=1")]
    with scope(None):
        assert inject(headers) == [("baggage", "b=1")]
        with scope("pr-1"):
            assert inject(headers) == [("baggage", "sd-routing-key=pr-1,b=1")]
    assert inject({"baggage": "sd-routing-key=NOT OK,a=1"}) == {"baggage": "a=1"}


def test_inject_takes_what_can_be_read_once() -> None:
    """Nothing of an iterator is lost."""
    assert inject(iter([("a", "1")]), key="pr-42") == [("a", "1"), ("baggage", "sd-routing-key=pr-42")]  # type: ignore[comparison-overlap]


@pytest.mark.parametrize("wrong", ["a: 1", 5, object()])
def test_inject_says_what_it_needs(wrong: Any) -> None:
    """What holds no headers is named, with what to pass."""
    with pytest.raises(tenancy.ConfigurationError, match=f"{type(wrong).__name__} holds no headers; pass a mapping"):
        inject(wrong, key="pr-42")


def test_inject_refuses_a_bad_key() -> None:
    """A key that is none raises before anything is written."""
    with pytest.raises(tenancy.InvalidRoutingKeyError):
        inject({}, key="PR 42")


def test_the_standard_propagator_never_drops_the_key() -> None:
    """The key goes before whatever baggage there is, so that OpenTelemetry's own limits cost others' members."""
    context = Context()
    for number in range(200):
        context = baggage.set_baggage(f"k{number}", "v", context)
    with attached(context), scope("pr-42"):
        carrier: dict[str, str] = {}
        W3C.inject(carrier)
        assert carrier["baggage"].startswith("sd-routing-key=pr-42,k0=v,k1=v,")
        assert list(baggage.get_all())[1:] == [f"k{number}" for number in range(200)]
        with scope("pr-43"):
            assert next(iter(baggage.get_all())) == "sd-routing-key"


def test_extract_ignores_what_is_ambient() -> None:
    """Reading is a function of the headers alone."""
    with scope("pr-99"):
        assert extract({}) is None
        assert extract(None) is None
        assert extract({"baggage": b"sd-routing-key=pr-42"}) == "pr-42"


def test_an_own_dialect() -> None:
    """With Okteto's names, Okteto's member is read, lives in baggage and is written."""
    tenancy.configure(read="okteto")
    with scope("pr-42"):
        assert baggage.get_baggage("okteto-divert") == "pr-42"
        assert inject({}) == {"baggage": "okteto-divert=pr-42"}
    tenancy.configure(read="signadot,okteto")
    token = otel.attach(baggage.set_baggage("okteto-divert", "pr-1"))
    with scope("pr-42"):
        assert dict(baggage.get_all()) == {"sd-routing-key": "pr-42"}
    with scope(None):
        assert dict(baggage.get_all()) == {}
    otel.detach(token)
    assert extract({"baggage": "okteto-divert=pr-1"}) == "pr-1"


def test_an_iterator_of_headers_is_not_used_up() -> None:
    """What can be gone through only once is copied whole, with a key and without."""
    assert inject(iter([("a", "b"), ("baggage", "x=1")])) == [("a", "b"), ("baggage", "x=1")]
    carried = inject(pair for pair in [("a", "b"), ("baggage", "sd-routing-key=pr-1,x=1")])
    assert carried == [("a", "b"), ("baggage", "sd-routing-key=pr-1,x=1")]
