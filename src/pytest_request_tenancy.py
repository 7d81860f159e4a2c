"""
The pytest plugin: fixtures and a marker. It is loaded in every run of pytest where it is installed, so it imports nothing before it is used.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tenancy import RoutingKey
    from tenancy.testing import Configure, Hops, MemoryRoutes

_MARKER = "tenancy_key"
_recorders = pytest.StashKey["Hops"]()
_checked = pytest.StashKey[int]()
_routes = pytest.StashKey["MemoryRoutes"]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", f"{_MARKER}(key): run the body of the test as the work of this routing key (None: of no key, on purpose)"
    )


@pytest.fixture
def tenancy_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[Configure]:
    """
    Settings of the test's own: the defaults, whatever the environment says. Call it to set some: ``tenancy_settings(role="baseline")``.
    """
    from tenancy.testing.isolation import isolated_settings, own_variables

    # By way of monkeypatch, so that what the test does with it and what is done here is undone in the right order.
    for name in own_variables(os.environ):
        monkeypatch.delenv(name)
    with isolated_settings() as configure:
        yield configure


@pytest.fixture
def tenancy_routes(request: pytest.FixtureRequest, tenancy_settings: Configure, monkeypatch: pytest.MonkeyPatch) -> MemoryRoutes:
    """
    A route table in memory, empty at first, which settings name for the test: ``tenancy_routes.fork("shop/orders", "pr-42")``.
    """
    from tenancy.testing.routes import MemoryRoutes

    # The same one for every test, since an application that was built in an earlier one has kept it.
    stash = request.config.stash
    routes = stash[_routes] = stash[_routes] if _routes in stash else MemoryRoutes()
    routes.clear()
    monkeypatch.setenv("TENANCY_ROUTES", routes.url)
    tenancy_settings()
    return routes


@pytest.fixture
def tenancy_key(request: pytest.FixtureRequest) -> RoutingKey | None:
    """
    The routing key of the test: that of its marker ``tenancy_key``, or ``pr-42``. Override it for others.
    """
    marked, key = _marked(request.node)
    if marked:
        return key
    from tenancy import RoutingKey

    return RoutingKey("pr-42")


@pytest.fixture
def tenancy_scope(tenancy_key: RoutingKey | None) -> Iterator[RoutingKey | None]:
    """
    Make the test the work of `tenancy_key`, and with it the fixtures that are set up after this one.
    """
    from tenancy import scope

    with scope(tenancy_key) as key:
        yield key


@pytest.fixture
def tenancy_hops(request: pytest.FixtureRequest) -> Iterator[Hops]:
    """
    The outbound hops of the test, which fails if one of them does not say whose work it is; see `tenancy.testing.record_hops`.
    """
    from tenancy.testing.hops import record_hops

    with record_hops(check=False) as hops:
        request.node.stash[_recorders] = hops
        yield hops
    del request.node.stash[_recorders]
    report = hops.report(since=request.node.stash.get(_checked, 0))
    if report is not None:
        pytest.fail(report, pytrace=False)


# The old kind of wrapper, which every pluggy knows that pytest 7.4 works with.
@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    marked, key = _marked(item)
    arguments = getattr(item, "funcargs", None) or {}
    if "tenancy_scope" in arguments:
        marked, key = True, arguments["tenancy_scope"]
    hops = item.stash.get(_recorders, None)
    if not marked and hops is None:
        yield
        return
    with ExitStack() as stack:
        if marked:
            _enter(stack, item, key)
        if hops is not None:
            hops.key = key
        outcome: Any = yield
        if hops is not None:
            hops.key = None
            _conclude(item, hops, outcome)


def _marked(item: pytest.Item) -> tuple[bool, RoutingKey | None]:
    """
    Return whether a test has the marker, and its key.
    """
    marker = item.get_closest_marker(_MARKER)
    if marker is None:
        return False, None
    given = (*marker.args, *marker.kwargs.values())
    if len(given) != 1 or marker.kwargs.keys() - {"key"}:
        pytest.fail(f"{item.nodeid}: {_MARKER} takes one routing key, such as @pytest.mark.{_MARKER}('pr-42')", pytrace=False)
    from tenancy import InvalidRoutingKeyError, RoutingKey

    try:
        return True, None if given[0] is None else RoutingKey(given[0])
    except InvalidRoutingKeyError as error:
        problem = str(error)
    pytest.fail(f"{item.nodeid}: {problem}", pytrace=False)


def _enter(stack: ExitStack, item: pytest.Item, key: RoutingKey | None) -> None:
    """
    Make a key current for the body of a test.
    """
    from tenancy import scope

    stack.enter_context(scope(key))
    # A coroutine may be run in a context that was copied earlier (anyio's runner, unittest's), so it takes its key along.
    function = getattr(item, "obj", None)
    places: list[tuple[Any, str]] = [(item, "obj"), (getattr(function, "hypothesis", None), "inner_test")]
    case: Any = getattr(function, "__self__", None)
    if "unittest" in sys.modules and isinstance(case, sys.modules["unittest"].TestCase):
        places.append((case, case._testMethodName))
    for owner, name in places:
        original = getattr(owner, name, None)
        if inspect.iscoroutinefunction(original):
            if owner is case:
                stack.callback(delattr, owner, name)  # it is the class's
            else:
                stack.callback(setattr, owner, name, original)
            setattr(owner, name, scope(key)(original))


def _conclude(item: pytest.Item, hops: Hops, outcome: Any) -> None:
    """
    Fail a test whose hops are not right; one that has failed by itself tells of its hops.
    """
    item.stash[_checked] = len(hops)
    report = hops.report()
    if outcome.excinfo is not None:
        item.add_report_section("call", "outbound hops", "\n".join(hop.summary for hop in hops) or "none")
    elif report is not None:
        failure = pytest.fail.Exception(report, pytrace=False)
        force = getattr(outcome, "force_exception", None)  # pluggy 1.1
        if force is None:
            raise failure
        force(failure)
