"""
A forwarded copy stands for the message that was published, however often it is sent on.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tenancy.key import RoutingKey
from tenancy.messaging.rabbitmq.copies import copy_headers, is_copy, original_of, returned_epoch
from tenancy.messaging.rabbitmq.names import names_of
from tenancy.messaging.rabbitmq.topology import MOST_MESSAGES, sandbox_arguments

NAMES = st.text(st.characters(codec="ascii", categories=["L", "N"], include_characters="-_"), min_size=1, max_size=12).filter(
    lambda name: not name.startswith("x-tenancy-")
)
HEADERS = st.dictionaries(NAMES, st.one_of(st.text(max_size=8), st.integers(), st.booleans(), st.none()), max_size=4)
TEXT = st.text(max_size=12)


@given(HEADERS, TEXT, TEXT, st.none() | TEXT, st.none() | TEXT, st.integers(1, 5))
def test_what_was_published_comes_back_out(
    headers: dict[str, Any], exchange: str, amqp_routing_key: str, user_id: str | None, message_id: str | None, times: int
) -> None:
    """After any number of copies: the same headers, exchange, routing key of AMQP, user and message id; the caller's are not changed."""
    before = dict(headers)
    came: dict[str, Any] = {
        "exchange": exchange,
        "amqp_routing_key": amqp_routing_key,
        "user_id": user_id,
        "message_id": message_id,
    }
    copied, seen = headers, came
    for epoch in range(times):
        copied = copy_headers(copied, epoch=epoch, **seen)
        seen = {"exchange": "orders.pr-1@1", "amqp_routing_key": "orders", "user_id": None, "message_id": "another"}
    assert headers == before
    assert is_copy(copied)
    original = original_of(copied, **seen)
    assert original.headers == {name: value for name, value in headers.items() if name != "x-delivery-count"}
    assert original._replace(headers={}) == original_of({}, **came)


def test_a_message_that_is_no_copy_stands_for_itself() -> None:
    """Nothing is made up."""
    original = original_of({"a": 1}, exchange="shop", amqp_routing_key="order.new", user_id="u", message_id="m")
    assert original == ({"a": 1}, "shop", "order.new", "u", "m")
    assert not is_copy({"a": 1})


def test_what_came_back_is_told_from_what_died() -> None:
    """A copy that the sandbox rejected, and that a dead-letter exchange brings here, is sent on again; one that was never taken is not."""
    forwarded = copy_headers({}, epoch=3, exchange="", amqp_routing_key="orders")
    assert returned_epoch(forwarded) == 3
    died = {**forwarded, "x-death": [{"queue": "orders.pr-1@3", "reason": "rejected", "count": 1}]}
    assert returned_epoch(died) == 0
    again = copy_headers(died, epoch=3, exchange="", amqp_routing_key="orders")
    assert returned_epoch(again) == 3
    assert returned_epoch({**again, "x-death": [{"queue": "orders.pr-1@3", "count": 2}]}) == 0


def test_what_goes_back_by_the_default_exchange_names_no_other_queue() -> None:
    """The broker would give it to the queues that CC names; the baseline sees it nevertheless."""
    headers = {"CC": ["audit"], "a": 1}
    assert copy_headers(headers, epoch=3, exchange="shop", amqp_routing_key="order.new")["CC"] == ["audit"]
    back = copy_headers(headers, epoch=0, exchange="shop", amqp_routing_key="order.new")
    assert "CC" not in back
    assert original_of(back, exchange="", amqp_routing_key="orders").headers == headers
    assert copy_headers(back, epoch=4, exchange="", amqp_routing_key="orders")["CC"] == ["audit"]
    assert original_of({"x-tenancy-original-cc": ["audit"]}, exchange="", amqp_routing_key="orders").headers == {}


def test_a_number_that_python_does_not_read_is_no_mark() -> None:
    """Whoever can publish can write one; a message that cannot be decided on is kept for ever."""
    assert returned_epoch({"x-tenancy-forwarded": f"{'9' * 5000}:0"}) == 0
    assert returned_epoch({"x-tenancy-forwarded": f"3:{'0' * 5000}"}) == 0


@given(
    st.dictionaries(
        st.sampled_from(["x-tenancy-forwarded", "x-death", "x-tenancy-original-exchange"]),
        st.text() | st.integers() | st.lists(st.text()),
    )
)
def test_junk_in_our_headers_is_no_mark(headers: dict[str, Any]) -> None:
    """Whoever can publish can write them; nothing raises."""
    original_of(headers, exchange="", amqp_routing_key="orders")
    assert returned_epoch(headers) >= 0


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=300), st.integers(1, 10**9))
def test_every_name_fits(base: str, epoch: int) -> None:
    """AMQP 0-9-1 takes 255 bytes; no two lives share a name."""
    names = names_of(base, RoutingKey("pr-1"), epoch)
    assert all(len(name.encode()) <= 255 for name in names)
    assert len({*names}) == len(names) - 1  # the queue and the exchange to it are of one name
    assert names.queue != names_of(base, RoutingKey("pr-1"), epoch + 1).queue


def test_a_sandbox_s_queue_is_like_the_baseline_s_and_bounded() -> None:
    """Its type and its way of retrying are the same; it has bounds, refuses what is beyond, and does not go away by itself."""
    names = names_of("orders", RoutingKey("pr-1"), 1)
    retrying = {"x-queue-type": "quorum", "x-dead-letter-exchange": "retry", "x-expires": 1000, "x-max-length": 50}
    own = sandbox_arguments(names, retrying)
    assert {name: own[name] for name in ("x-queue-type", "x-dead-letter-exchange", "x-max-length", "x-overflow")} == {
        "x-queue-type": "quorum",
        "x-dead-letter-exchange": "retry",
        "x-max-length": 50,
        "x-overflow": "reject-publish",
    }
    assert "x-expires" not in own
    plain = sandbox_arguments(names, {})
    assert plain["x-dead-letter-routing-key"] == "orders.pr-1@1.dead"
    assert plain["x-max-length"] == MOST_MESSAGES
