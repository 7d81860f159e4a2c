"""
What the crowd sends, and what each kind of request must meet.
"""

from __future__ import annotations

import random
import re

from examples.shop.plan import BASELINE, SERVICES, Expected, Plan

__all__ = ["KEYS", "MALFORMED", "PARTS", "PLAN", "ROUND", "UNKNOWN", "Orders", "orders"]

#: What to send: pairs of order id and kind.
Orders = list[tuple[str, str | None]]

KEYS = tuple(f"k{number:02d}" for number in range(50))
UNKNOWN = tuple(f"nobody-{number}" for number in range(10))
MALFORMED = ("PR_42!", "baseline", "k07-", "k" * 64, "k07 k08")

# Who serves the keys of a group. Each sandbox serves many keys, so what is not forked meets all 50 keys, and each fork 20 or 30.
_GROUPS: tuple[tuple[str, str, str, str, str], ...] = (
    # storefront, pricing, orders, fulfilment, notify
    (BASELINE, "red", BASELINE, "red", BASELINE),
    ("blue", BASELINE, BASELINE, BASELINE, "blue"),
    ("blue", "red", BASELINE, "red", "blue"),
    (BASELINE, "red", BASELINE, BASELINE, BASELINE),
    (BASELINE, BASELINE, BASELINE, BASELINE, "blue"),
)
_OF = {key: _GROUPS[number % len(_GROUPS)] for number, key in enumerate(KEYS)}
_NOBODY_FORKS = Expected(200, *(BASELINE,) * 5, BASELINE)

PLAN = Plan(
    routes={
        key: {service: who for service, who in zip(SERVICES, group, strict=True) if who != BASELINE} for key, group in _OF.items()
    },
    expected={
        **{key: Expected(200, *group, key) for key, group in _OF.items()},
        None: _NOBODY_FORKS,
        **dict.fromkeys(UNKNOWN, _NOBODY_FORKS),
        **dict.fromkeys(MALFORMED, Expected(400, *(None,) * 6)),
    },
)

#: What a service tells beside its own hop: the same work after a pause, and work that it handed on.
PARTS = (
    "storefront.task",
    "storefront.thread",
    "storefront.process",
    "pricing.pause",
    "pricing.thread",
    "orders.pause",
    "orders.thread",
    "fulfilment.task",
    "notify.task",
)

# 200 requests: 150 with a key, 20 without, 20 with an unknown one, 10 with a malformed one.
_SHARES: tuple[tuple[tuple[str | None, ...], int], ...] = ((KEYS, 3), ((None,), 20), (UNKNOWN, 2), (MALFORMED, 2))

#: How many requests `orders` has in each round.
ROUND = sum(len(kinds) * share for kinds, share in _SHARES)


def orders(rounds: int) -> Orders:
    """
    Return what to send, in an order that is mixed, but always the same. Each id tells the kind, to be read in messages to people.

    Args:
        rounds: How many times `ROUND` requests.
    """
    kinds = [kind for kinds, share in _SHARES for kind in kinds for _ in range(share * rounds)]
    random.Random(50).shuffle(kinds)
    return [(f"{number:05d}-{_told(kind)}", kind) for number, kind in enumerate(kinds)]


def _told(kind: str | None) -> str:
    return "no-key" if kind is None else kind if kind not in MALFORMED else f"malformed-{re.sub('[^A-Za-z0-9]', '-', kind)[:8]}"
