from __future__ import annotations

import logging

import pytest

import tenancy
from tenancy import ConfigurationError, IdentityError, RoutesNotSyncedError
from tenancy.routes.admission import Admission
from tenancy.routes.judge import Judge, judge_if_known
from tenancy.testing import MemoryRoutes


@pytest.fixture
def routes() -> MemoryRoutes:
    return MemoryRoutes({"shop/orders": ["pr-42"]})


def headers(value: str) -> dict[str, str]:
    return {"baggage": f"a=1,sd-routing-key={value}"}


def test_known_keys_are_accepted_where_there_is_a_table(routes: MemoryRoutes) -> None:
    """With a route source the default is to accept what its table knows."""
    admission = Admission("test", routes=routes)
    assert admission.admit(headers("pr-42"))[:2] == ("pr-42", "accepted")
    assert admission.admit(headers("pr-43"))[:2] == (None, "refused")
    assert admission.admit({})[:2] == (None, "absent")
    assert admission.admit(headers("PR 42"))[:2] == (None, "malformed")


def test_all_keys_are_accepted_where_there_is_none() -> None:
    """Without a route source every well-formed key is accepted."""
    assert Admission("test").admit(headers("anything"))[:2] == ("anything", "accepted")


def test_other_policies(routes: MemoryRoutes) -> None:
    """All, none, or a function."""
    assert Admission("test", accept="all", routes=routes).admit(headers("pr-43")).key == "pr-43"
    assert Admission("test", accept="none", routes=routes).admit(headers("pr-42")).outcome == "refused"
    mine = Admission("test", accept=lambda key: key.startswith("pr-"))
    assert mine.admit(headers("pr-1")).key == "pr-1"
    assert mine.admit(headers("x-1")).key is None
    with pytest.raises(ConfigurationError, match="no route source"):
        Admission("test", accept="known")
    with pytest.raises(ConfigurationError, match="sometimes"):
        Admission("test", accept="sometimes")  # type: ignore[arg-type]


def test_the_setting_known_holds_for_routes_of_ones_own(routes: MemoryRoutes) -> None:
    """Whether there is a table is seen where one is needed, so the setting alone never stops a process that is switched off."""
    tenancy.configure(accept="known")
    assert Admission("test", routes=routes).admit(headers("pr-43")).outcome == "refused"
    with pytest.raises(ConfigurationError, match="no route source"):
        Admission("test")
    assert not tenancy.configure(accept="known", enabled=False).enabled


def test_a_coroutine_function_cannot_accept() -> None:
    """Nobody would await it, and a coroutine is true."""

    async def accept(key: tenancy.RoutingKey) -> bool:
        return False

    class Accept:
        __call__ = staticmethod(accept)

    for refused in (accept, Accept()):
        with pytest.raises(ConfigurationError, match="coroutine"):
            Admission("test", accept=refused)  # type: ignore[arg-type]


def test_what_must_be_rewritten_is_told(routes: MemoryRoutes) -> None:
    """A carrier that names several keys, or one that is not accepted, is not clean."""
    admission = Admission("test", routes=routes)
    assert admission.admit(headers("pr-42")).clean
    assert admission.admit({}).clean
    assert not admission.admit({**headers("pr-42"), "ot-baggage-sd-routing-key": "pr-43"}).clean
    assert not admission.admit(headers("pr-43")).clean
    assert not admission.admit(headers("PR 43")).clean


def test_malformed_keys_are_logged_once_for_each_adapter(caplog: pytest.LogCaptureFixture) -> None:
    """The first one is logged, cut to 64 characters and escaped; the rest are counted."""
    with caplog.at_level(logging.WARNING, "tenancy"):
        for adapter in ("first-adapter", "second-adapter"):
            for _ in range(3):
                Admission(adapter).admit({"baggage": "sd-routing-key=" + "x\n" * 500})
    messages = [record.getMessage() for record in caplog.records]
    assert [message.split(":")[0] for message in messages] == ["first-adapter", "second-adapter"]
    assert all(len(message) < 400 and "\n" not in message for message in messages)


def test_a_table_that_was_never_read_stops_keyed_work_only(routes: MemoryRoutes) -> None:
    """Work without a key is admitted and judged without a table; work with one raises."""
    routes.lose()
    tenancy.configure(role="baseline", workload="shop/orders", routes_deadline=0.05)
    admission, judge = Admission("test", routes=routes), Judge("test", routes=routes)
    assert admission.admit({}).key is None
    assert judge.judge(None).owned
    for keyed in (lambda: admission.admit(headers("pr-42")), lambda: judge.judge(tenancy.RoutingKey("pr-42")), judge.wait_synced):
        with pytest.raises(RoutesNotSyncedError):
            keyed()


async def test_a_judge_needs_an_identity_and_a_known_workload(routes: MemoryRoutes) -> None:
    """Without identity, without routes, or with a workload that the table does not know, there is no judge."""
    assert judge_if_known("test", routes=routes) is None
    with pytest.raises(IdentityError):
        Judge("test", routes=routes)
    tenancy.configure(role="baseline", workload="shop/order")
    with pytest.raises(ConfigurationError, match="route table"):
        Judge("test")
    assert judge_if_known("test") is None
    with pytest.raises(IdentityError, match="shop/orders"):
        Judge("test", routes=routes).wait_synced()
    judge = Judge("test", workload="shop/orders", routes=routes)
    await judge.synced()
    judge.wait_synced()
    assert not judge.judge(tenancy.RoutingKey("pr-42")).owned
    assert judge.judge(None).owned
