"""
Hostile headers against a real Envoy: each reaches the upstream that this table says, and the one that the library's codec says.
"""

from __future__ import annotations

import random
import time

import pytest

from tenancy.baggage import codec
from tenancy.config import DIALECTS
from tests.mesh.conftest import Mesh
from tests.mesh.hostile import CASES, K, baggage, line
from tests.mesh.wire import request

pytestmark = pytest.mark.service

CODEC = codec(DIALECTS["signadot"], DIALECTS["signadot"][:1])
FORKS = {"pr-42", "pr-7"}


@pytest.mark.parametrize("case", CASES)
def test_hostile_headers(mesh: Mesh, case: str) -> None:
    """The request reaches the owner, which is told the key; what else the client sent arrives as it was."""
    lines, upstream, told = CASES[case]
    reply = request(mesh.web, lines)
    assert reply.served_by == upstream
    assert reply.values("x-sd-routing-key") == ([told] if told else [])
    for header in {name.lower() for name, _ in lines} - {"x-sd-routing-key"}:
        sent = [value.strip(" \t") for name, value in lines if name.lower() == header]
        assert [value.strip(" \t") for value in reply.values(header)] == sent
    reading = CODEC.read([(name, value.strip(" \t")) for name, value in lines])
    assert reading.key == told, "the mesh and the library see different keys"


@pytest.mark.parametrize("seed", range(10))
def test_mesh_and_library_agree(mesh: Mesh, seed: int) -> None:
    """Whatever stands in the headers, the mesh sends the request where the library's codec would."""
    chance = random.Random(seed)
    forked = 0
    for _ in range(200):
        lines = [line(chance) for _ in range(chance.choice([1, 1, 1, 2, 3]))]
        key = CODEC.read([(name, value.strip(" \t")) for name, value in lines]).key
        reply = request(mesh.web, lines)
        assert reply.served_by == (key if key in FORKS else "baseline"), lines
        assert reply.values("x-sd-routing-key") == ([str(key)] if key else []), lines
        forked += key in FORKS
    assert 40 < forked < 160, "the generator has become too tame or too wild"


@pytest.mark.parametrize("value", ["a\0b", f"{K}\0", f"a\n{K}"])
def test_broken_lines_are_refused(mesh: Mesh, value: str) -> None:
    """What is no header line at all is Envoy's to refuse."""
    assert request(mesh.web, baggage(value)).status == 400


def test_a_bare_carriage_return(mesh: Mesh) -> None:
    """Envoy takes bare carriage returns out, before we read: mesh and service see the same line."""
    reply = request(mesh.web, baggage("a=1,sd-rou\rting-key=pr-42"))
    assert reply.values("baggage") == ["a=1,sd-routing-key=pr-42"]
    assert reply.served_by == "pr-42"


@pytest.mark.parametrize("entrance", ["web", "edge"])
@pytest.mark.parametrize("place", ["a={}x", "sd-routing-key=pr{}x", "{}x=1", "{}"])
@pytest.mark.parametrize("piece", [" ", "\t", ",", "=", "%", "%25", "%20", "+", ";", "_", "sd-routing-key", "%2525252525"])
def test_long_headers_take_linear_time(mesh: Mesh, entrance: str, place: str, piece: str) -> None:
    """60 KB of whatever a pattern could stumble over holds up the proxy, which is everyone's, for no noticeable time."""
    value = "a=1," + place.format(piece * (60_000 // len(piece)))
    started = time.monotonic()
    reply = request(getattr(mesh, entrance), baggage(value))
    elapsed = time.monotonic() - started
    assert reply.status == 200
    assert elapsed < 1.5


def test_more_than_the_limit_is_refused(mesh: Mesh) -> None:
    """Larger headers than the configured 96 KiB are refused, not cut."""
    assert request(mesh.web, baggage(f"a={'v' * 100_000}")).status == 431
