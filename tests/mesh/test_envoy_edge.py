"""
The public gateway: whatever a caller sends, no key of his gets past it, and nothing else is lost.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from urllib.parse import unquote_plus

import pytest
from opentelemetry import baggage as otel
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context

from tenancy.baggage import ABSENT, codec
from tenancy.config import DIALECTS
from tests.mesh.conftest import Mesh
from tests.mesh.hostile import CASES, K, Lines, baggage, line
from tests.mesh.wire import Reply, request

pytestmark = pytest.mark.service

CODEC = codec(DIALECTS["signadot"], DIALECTS["signadot"][:1])
ENCODED = "".join(f"%{ord(character):02x}" for character in "sd-routing-key")

# name: (header lines, what of them is left)
STRIPPED: dict[str, tuple[Lines, Lines]] = {
    "the key alone": (baggage(K), []),
    "others are kept": (baggage(f"a=1,{K},b=2;p"), baggage("a=1,b=2;p")),
    "others are kept byte for byte": (baggage(f'a= 1 ;p = "x",{K}, %62 =\xe9+%2C'), baggage('a= 1 ;p = "x", %62 =\xe9+%2C')),
    "others that are encoded twice are kept": (baggage(f"u=https%253A%252F%252Fx,{K}"), baggage("u=https%253A%252F%252Fx")),
    "nothing to do, byte for byte": (baggage(" a=1 ,, b=2\t, c"), baggage("a=1 ,, b=2\t, c")),
    "lines without ours stay lines": (baggage("a=1", "b=2"), baggage("a=1", "b=2")),
    "several lines": (baggage(f"a=1,{K}", f"{K},b=2", K), baggage("a=1", "b=2")),
    "upper-case header name": ([("BAGGAGE", f"{K},a=1")], baggage("a=1")),
    "upper-case member name": (baggage("SD-Routing-KEY=pr-42,a=1"), baggage("a=1")),
    "an encoded hyphen": (baggage("sd%2Drouting-key=pr-42,a=1"), baggage("a=1")),
    "an encoded hyphen in lower case": (baggage("sd%2drouting-key=pr-42,a=1"), baggage("a=1")),
    "wholly encoded": (baggage(f"{ENCODED}=pr-42,a=1"), baggage("a=1")),
    "encoded twice": (baggage("sd%252Drouting-key=pr-42,a=1"), baggage("a=1")),
    "encoded three times": (baggage("sd%25252Drouting-key=pr-42,a=1"), baggage("a=1")),
    "encoded ten times": (baggage(f"sd%{'25' * 10}2Drouting-key=pr-42,a=1"), baggage("a=1")),
    "encoded and upper case": (baggage("%53D%2DROUTING%2Dkey=pr-42,a=1"), baggage("a=1")),
    "encoded white space before": (baggage("%20%09%C2%A0sd-routing-key=pr-42,a=1"), baggage("a=1")),
    "a plus before and behind": (baggage("+sd-routing-key+=pr-42,a=1"), baggage("a=1")),
    "an encoded value": (baggage("sd-routing-key=%70r-42,a=1"), baggage("a=1")),
    "properties": (baggage(f"{K};p=1;q,a=1"), baggage("a=1")),
    "a property on the name": (baggage("sd-routing-key;p=pr-42,a=1"), baggage("a=1")),
    "our name as a property": (baggage(f"a=1;{K},b=2"), baggage("b=2")),
    "our name in a value": (baggage(f"a={K},b=2"), baggage("b=2")),
    "a member in a value, encoded, for who decodes and forwards": (baggage("a=1%2Csd-routing-key%3Dpr-42,b=2"), baggage("b=2")),
    "without a value": (baggage("sd-routing-key,a=1"), baggage("a=1")),
    "a bare carriage return": (baggage("sd-rou\rting-key=pr-42,a=1"), baggage("a=1")),
    "underscores": (baggage("sd_routing_key=pr-42,a=1"), baggage("a=1")),
    "the plain header": ([("x-sd-routing-key", "pr-42"), ("x-other", "1")], [("x-other", "1")]),
    "the plain header, as WSGI reads it": ([("X_SD_Routing-Key", "pr-42"), ("x_other", "1")], [("x_other", "1")]),
    "the bare header": ([("sd-routing-key", "pr-42")], []),
    "ot-baggage": ([("ot-baggage-sd-routing-key", "pr-42"), ("ot-baggage-other", "1")], [("ot-baggage-other", "1")]),
    "ot-baggage, as WSGI reads it": ([("OT_Baggage_SD_Routing_Key", "pr-42")], []),
    "uberctx": ([("Uberctx-Sd-Routing-Key", "pr-42"), ("uberctx-other", "1")], [("uberctx-other", "1")]),
    "brave": ([("baggage-sd-routing-key", "pr-42")], []),
    "jaeger-baggage": ([("jaeger-baggage", f"{K}, a=1")], [("jaeger-baggage", "a=1")]),
    "correlation-context": ([("Correlation-Context", f"{K}, a=1")], [("correlation-context", "a=1")]),
    "tracestate": (
        [("tracestate", f"rojo=00f067aa0ba902b7,{K},congo=t61rcWkgMzE")],
        [("tracestate", "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE")],
    ),
    "tracestate without ours": ([("tracestate", "rojo=1, congo=2")], [("tracestate", "rojo=1, congo=2")]),
    "everywhere at once": (
        [*baggage(K, f"{K},a=1"), ("tracestate", K), ("ot-baggage-sd-routing-key", "pr-42"), ("x-sd-routing-key", "pr-42")],
        baggage("a=1"),
    ),
    "other people's headers": (
        [("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), ("cookie", K), ("authorization", "Bearer x")],
        [("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), ("cookie", K), ("authorization", "Bearer x")],
    ),
}


def _readings(reply: Reply) -> Iterator[str]:
    """What readers of all kinds make of the headers that got through: each text that one of them might take for a name."""
    headers = [(name, value) for name, value in reply.json["headers"] if name != "cookie"]
    if CODEC.read(headers) != ABSENT:
        yield "sd-routing-key, for the library's codec"
    for name, value in headers:
        yield name.replace("_", "-")
        if name in ("baggage", "tracestate", "jaeger-baggage", "correlation-context"):
            context = W3CBaggagePropagator().extract({"baggage": value}, Context())
            yield from otel.get_all(context)
            for _ in range(12):
                yield value.lower()
                value = unquote_plus(value)


@pytest.mark.parametrize("case", STRIPPED)
def test_the_edge_strips_ours_and_keeps_the_rest(mesh: Mesh, case: str) -> None:
    """What is left of the caller's headers is exactly the rest; the baseline serves."""
    lines, left = STRIPPED[case]
    reply = request(mesh.edge, lines)
    assert reply.served_by == "baseline"
    added = {"host", "x-forwarded-for", "x-forwarded-proto", "x-envoy-external-address"}
    through = [(name, value) for name, value in reply.json["headers"] if name not in added]
    assert sorted(through) == sorted((name.lower(), value) for name, value in left)
    assert not [text for text in _readings(reply) if "sd-routing-key" in text]


@pytest.mark.parametrize("case", CASES)
def test_no_hostile_header_gets_past_the_edge(mesh: Mesh, case: str) -> None:
    """None of the headers of the routing table leads to a fork or leaves anything to read."""
    reply = request(mesh.edge, CASES[case][0])
    assert reply.served_by == "baseline"
    assert not [text for text in _readings(reply) if "sd-routing-key" in text]


@pytest.mark.parametrize("seed", range(4))
def test_no_random_header_gets_past_the_edge(mesh: Mesh, seed: int) -> None:
    """Nor does anything else that is nearly a key."""
    chance = random.Random(1000 + seed)
    for _ in range(200):
        lines = [line(chance) for _ in range(chance.randint(1, 3))]
        reply = request(mesh.edge, lines)
        assert reply.served_by == "baseline"
        assert not [text for text in _readings(reply) if "sd-routing-key" in text], lines


@pytest.mark.parametrize("protocol", ["h2c", "HTTP/2.0", "TLS/1.2"])
def test_no_other_protocol_gets_past_the_edge(mesh: Mesh, protocol: str) -> None:
    """Only WebSockets are upgraded: behind another upgrade, requests would follow that nobody strips."""
    lines = [("upgrade", protocol), ("http2-settings", "AAMAAABkAAQCAAAAAAIAAAAA"), ("connection", "Upgrade, HTTP2-Settings")]
    reply = request(mesh.edge, lines)
    assert reply.status in (200, 403)
    if reply.status == 200:
        assert reply.values("upgrade") == []


def test_trusted_networks_keep_their_keys(mesh: Mesh) -> None:
    """The connection's own address decides; what a header says about it does not."""
    assert request(mesh.partly_trusting_edge, baggage(K), source="127.0.0.2").served_by == "pr-42"
    for lines in (baggage(K), [*baggage(K), ("x-forwarded-for", "127.0.0.2"), ("x-real-ip", "127.0.0.2")]):
        reply = request(mesh.partly_trusting_edge, lines)
        assert reply.served_by == "baseline"
        assert reply.values("baggage") == []
    spoofed = request(mesh.partly_trusting_edge, [("x-sd-routing-key", "pr-42")], source="127.0.0.2")
    assert spoofed.served_by == "baseline"
