from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tenancy
from tenancy import RoutingKey
from tenancy.http._responses import private, served_by


def lines(headers: list[tuple[bytes, bytes]], name: bytes) -> list[str]:
    return [value.decode("latin-1") for found, value in headers if found.lower() == name]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([], ["private"]),
        ([""], ["private"]),
        (["public"], ["private"]),
        (["public, max-age=60"], ["private, max-age=60"]),
        (["max-age=60, s-maxage=600, must-revalidate"], ["private, max-age=60, must-revalidate"]),
        (["PUBLIC , S-MaxAge = 3"], ["private"]),
        (["max-age=60", "public, immutable"], ["private, max-age=60, immutable"]),
        (["no-cache"], ["private, no-cache"]),
        (['no-cache="a, public, b", public'], ['private, no-cache="a, public, b"']),
        (['private="set-cookie", max-age=1'], ["private, max-age=1"]),
        (['ext="unterminated, public'], ['private, ext="unterminated, public']),
        (["private"], ["private"]),
        (["Private, max-age=5"], ["Private, max-age=5"]),
        (["no-store"], ["no-store"]),
        (["NO-STORE,max-age=0"], ["NO-STORE,max-age=0"]),
        (["max-age=5", "no-store"], ["max-age=5", "no-store"]),
        (["stale-while-revalidate=30,,"], ["private, stale-while-revalidate=30"]),
        (["ext=\xe9"], ["private, ext=\xe9"]),
    ],
)
def test_cache_control(before: list[str], after: list[str]) -> None:
    """No shared cache may keep the response; all else that it said holds, and what is stricter stays as it is."""
    headers = [(b"Cache-Control", value.encode("latin-1")) for value in before]
    assert lines(private([(b"a", b"1"), *headers]), b"cache-control") == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([], ["baggage"]),
        ([""], ["baggage"]),
        (["Accept"], ["Accept, baggage"]),
        (["Accept, Origin"], ["Accept, Origin, baggage"]),
        (["Accept", "Origin"], ["Accept, Origin, baggage"]),
        (["baggage"], ["baggage"]),
        (["Accept, Baggage"], ["Accept, Baggage"]),
        (["Accept", "BAGGAGE"], ["Accept", "BAGGAGE"]),
        (["x-baggage"], ["x-baggage, baggage"]),
        (["*"], ["*"]),
        (["Accept, *"], ["Accept, *"]),
    ],
)
def test_vary(before: list[str], after: list[str]) -> None:
    """The response depends on the baggage, unless it says so already or depends on everything."""
    assert lines(private([(b"vary", value.encode()) for value in before]), b"vary") == after


def test_headers_for_single_caches_would_go_first() -> None:
    """A CDN's own header would overrule Cache-Control, so it goes; the rest keeps its order and its bytes."""
    headers = [
        (b"X-One", b"\xff 1"),
        (b"CDN-Cache-Control", b"max-age=600"),
        (b"Surrogate-Control", b"max-age=600"),
        (b"x-two", b"2"),
    ]
    assert private(iter(headers)) == [
        (b"X-One", b"\xff 1"),
        (b"x-two", b"2"),
        (b"cache-control", b"private"),
        (b"vary", b"baggage"),
    ]


@given(st.lists(st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=30), max_size=3))
def test_any_cache_control_becomes_private(values: list[str]) -> None:
    """Whatever an application writes, the result forbids sharing, and doing it again changes nothing."""
    once = private([(b"cache-control", value.encode("latin-1")) for value in values])
    directives = [
        part.strip().lower() for line in lines(once, b"cache-control") for part in re.sub(r'"[^"]*"?', "", line).split(",")
    ]
    assert "private" in directives or "no-store" in directives
    assert private(once) == once


def test_who_served() -> None:
    """The value names the workload, the sandbox or the baseline, the key and the reason."""
    key = RoutingKey("pr-42")
    assert served_by(None, "no routing key") == b'unknown; reason="no routing key"'
    tenancy.configure(workload="shop/storefront")
    assert served_by(key, "x") == b'shop/storefront; routing_key=pr-42; reason="x"'
    tenancy.configure(workload="shop/storefront", role="baseline")
    assert served_by(key, "x") == b'shop/storefront; baseline; routing_key=pr-42; reason="x"'
    tenancy.configure(workload="shop/storefront", sandbox="pr-42-shop")
    assert served_by(key, "x") == b'shop/storefront; sandbox=pr-42-shop; routing_key=pr-42; reason="x"'


@given(st.text(max_size=300))
def test_a_reason_never_breaks_a_header(reason: str) -> None:
    """Quotes, line breaks and everything that is not printable ASCII are replaced."""
    value = served_by(None, reason).decode("ascii")
    assert re.fullmatch(r'unknown; reason="[ !#-\[\]-~]{0,200}"', value)
