"""The pytest plugin, in runs of its own: what its fixtures and its marker give, and how a test fails."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable

import pytest

pytest_plugins = "pytester"

#: A peer on a real socket, and a bare request to it.
PEER = """
import asyncio, os, threading, unittest, urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import pytest
import tenancy

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(204)
        self.end_headers()

    def log_message(self, *args):
        pass

@pytest.fixture(scope="session")
def url():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/stock"
        server.shutdown()

def fetch(url, headers={}):
    urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=20).close()
"""

INI = (
    "[pytest]\naddopts = --strict-markers -p no:cacheprovider\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"
)


Run = Callable[..., pytest.RunResult]


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs tests in a process of their own, after the peer above."""
    for name in ("PYTEST_ADDOPTS", "CI", "BUILD_NUMBER"):  # where they are set, pytest shows more
        monkeypatch.delenv(name, raising=False)

    def run(code: str, *arguments: str) -> pytest.RunResult:
        pytester.makeini(INI)
        pytester.makepyfile(test_it=PEER + textwrap.dedent(code))
        return pytester.runpytest_subprocess("-W", "error", *arguments, timeout=90)

    return run


# The marker, the key and the scope

EVERY_KIND = """
from hypothesis import given, strategies as st

pytestmark = pytest.mark.tenancy_key("pr-7")

def check():
    assert tenancy.routing_key() == "pr-7"

def test_function():
    check()

async def test_asyncio():
    await asyncio.sleep(0)
    check()
    await asyncio.to_thread(check)

@pytest.fixture(scope="module")
def anyio_backend():
    return "asyncio"

@pytest.fixture(scope="module")
async def early(anyio_backend):
    assert tenancy.routing_key() is None
    yield

@pytest.mark.anyio
async def test_anyio_with_a_runner_that_is_older(early):
    await asyncio.sleep(0)
    check()

@given(st.integers())
def test_hypothesis(number):
    check()

@given(st.integers())
async def test_hypothesis_asyncio(number):
    check()

@pytest.mark.parametrize("number", [1, 2])
class TestMethods:
    def test_method(self, number):
        check()

    async def test_coroutine(self, number):
        check()

    @pytest.mark.tenancy_key("pr-8")
    def test_closest(self, number):
        assert tenancy.routing_key() == "pr-8"

class Unit(unittest.TestCase):
    def test_method(self):
        check()

class AsyncUnit(unittest.IsolatedAsyncioTestCase):
    async def test_coroutine(self):
        check()
        await asyncio.sleep(0)
        check()

@pytest.mark.tenancy_key(None)
def test_none_on_purpose():
    from tenancy.context import cleared
    assert tenancy.routing_key() is None and cleared()
"""


def test_a_marked_body_has_the_key_in_every_kind_of_test(run: Run) -> None:
    """Functions, methods, coroutines of asyncio and anyio, hypothesis, unittest; whatever context their runner has copied, and when."""
    run(EVERY_KIND, "-p", "no:randomly").assert_outcomes(passed=14)


def test_nothing_is_left_behind(run: Run) -> None:
    """After a marked test, one that failed and one that ran twice included, there is no key, and the test is what it was."""
    result = run(
        """
        @pytest.mark.tenancy_key("pr-7")
        def test_first():
            assert tenancy.routing_key() == "pr-7"
            raise LookupError

        @pytest.mark.tenancy_key("pr-7")
        async def test_second():
            raise LookupError

        def test_third():
            assert tenancy.routing_key() is None

        async def test_fourth(request):
            assert tenancy.routing_key() is None
            item = next(item for item in request.session.items if item.name == "test_second")
            assert item.obj is test_second

        def test_fifth(tenancy_scope):
            assert tenancy.routing_key() == "pr-42"

        def test_sixth():
            assert tenancy.routing_key() is None
        """
    )
    result.assert_outcomes(passed=4, failed=2)


def test_fixtures_are_in_the_scope_if_they_come_after_it(run: Run) -> None:
    """The marker is about the body; `tenancy_scope` about what is set up after it, and about the body as well. The key can be overridden."""
    result = run(
        """
        @pytest.fixture
        def outside():
            return tenancy.routing_key()

        @pytest.fixture
        def inside(tenancy_scope):
            return tenancy.routing_key()

        @pytest.mark.tenancy_key("pr-7")
        def test_marker(outside):
            assert (outside, tenancy.routing_key()) == (None, "pr-7")

        @pytest.mark.tenancy_key("pr-7")
        def test_both(inside, tenancy_key):
            assert inside == tenancy_key == tenancy.routing_key() == "pr-7"

        def test_default(inside, tenancy_scope):
            assert inside == tenancy_scope == tenancy.routing_key() == "pr-42"
            assert isinstance(tenancy_scope, tenancy.RoutingKey)

        class TestOverridden:
            @pytest.fixture(params=["pr-1", None])
            def tenancy_key(self, request):
                return request.param

            async def test_it(self, inside, tenancy_key):
                assert inside == tenancy.routing_key() == tenancy_key
        """
    )
    result.assert_outcomes(passed=5)


def test_a_marker_that_says_no_key_fails_its_test(run: Run) -> None:
    """With what is wrong, and no traceback through the plugin; other tests run."""
    result = run(
        """
        @pytest.mark.tenancy_key("PR_42")
        def test_malformed(): ...

        @pytest.mark.tenancy_key
        def test_nothing(): ...

        @pytest.mark.tenancy_key("pr-1", "pr-2")
        def test_two(tenancy_key): ...

        @pytest.mark.tenancy_key(key="pr-1")
        def test_by_name():
            assert tenancy.routing_key() == "pr-1"
        """
    )
    result.assert_outcomes(passed=1, failed=2, errors=1)
    result.stdout.fnmatch_lines(
        ["*'PR_42' is not a routing key*", "*takes one routing key, such as @pytest.mark.tenancy_key('pr-42')"]
    )
    result.stdout.no_fnmatch_line("*plugin.py*")
    run("", "--markers").stdout.fnmatch_lines(["@pytest.mark.tenancy_key(key): *"])


# Settings and routes


def test_settings_and_routes_are_the_test_s_own(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the environment says, and whatever the tests do to it, by monkeypatch or by hand, in either order."""
    monkeypatch.setenv("TENANCY_ROLE", "sandbox")
    monkeypatch.setenv("TENANCY_SANDBOX", "pr-9")
    result = run(
        """
        from tenancy.routes import routes_for

        def test_own(tenancy_settings):
            assert tenancy.settings() == tenancy.Settings()
            assert tenancy_settings(role="baseline").role == "baseline"
            assert tenancy_settings(workload="shop/orders").role == "baseline"
            os.environ["TENANCY_ROLE"] = "nobody"

        def test_changed(monkeypatch, tenancy_settings):
            monkeypatch.setenv("TENANCY_ROLE", "baseline")
            monkeypatch.setenv("TENANCY_WORKLOAD", "shop/orders")
            assert tenancy_settings().workload == "shop/orders"

        def test_changed_first(tenancy_settings, monkeypatch):
            monkeypatch.setenv("TENANCY_ROLE", "baseline")
            monkeypatch.delenv("TENANCY_ROLE")

        def test_left():
            assert os.environ["TENANCY_ROLE"] == "sandbox" and os.environ["TENANCY_SANDBOX"] == "pr-9"
            assert "TENANCY_WORKLOAD" not in os.environ
            assert tenancy.settings().sandbox == "pr-9"

        def test_routes(tenancy_routes, tenancy_settings):
            assert routes_for() is tenancy_routes
            tenancy_routes.fork("shop/orders", "pr-1")
            tenancy_settings(role="baseline", workload="shop/orders")
            assert routes_for() is tenancy_routes
            assert tenancy.configure().routes == tenancy_routes.url
            assert tenancy_routes.table.keys() == {"pr-1"}

        def test_new_routes(tenancy_settings, tenancy_routes):
            assert routes_for().table.keys() == frozenset()

        def test_no_routes(tenancy_settings):
            assert routes_for() is None

        def test_left_again():
            assert tenancy.settings().sandbox == "pr-9" and "TENANCY_ROUTES" not in os.environ
        """
    )
    result.assert_outcomes(passed=8)


def test_an_application_that_was_built_before_sees_each_test_s_routes(run: Run) -> None:
    """It keeps the table that it found when it was built, so that is the same one, empty for each test."""
    result = run(
        """
        from fastapi import FastAPI
        from fastapi.testclient import TestClient
        from tenancy.http.fastapi import TenancyMiddleware

        app = FastAPI()
        app.add_middleware(TenancyMiddleware)

        @app.get("/")
        def whose():
            return tenancy.routing_key()

        @pytest.mark.parametrize("key", ["pr-1", "pr-2", "pr-3"])
        def test_it(tenancy_routes, key):
            if key == "pr-2":
                tenancy_routes.lose()
            assert tenancy_routes.fork("shop/orders", key).generation == 1
            tenancy_routes.restore()
            for other in ("pr-1", "pr-2", "pr-3"):
                answer = TestClient(app).get("/", headers={"baggage": f"sd-routing-key={other}"})
                assert answer.json() == (key if other == key else None)
            tenancy_routes.lose()
        """,
        "-W",
        "ignore",
    )
    result.assert_outcomes(passed=3)


# Hops


def test_a_test_fails_whose_hop_lacks_the_key(run: Run) -> None:
    """In its body: it failed, and the message says which hop, from where, and what to do. With the key it passes."""
    result = run(
        """
        def test_lost(tenancy_hops, url):
            with tenancy.scope("pr-1"):
                fetch(url)

        def test_carried(tenancy_hops, url):
            with tenancy.scope("pr-1"):
                fetch(url, tenancy.inject())
            assert len(tenancy_hops.to("127.0.0.1")) == 1

        @pytest.mark.tenancy_key("pr-2")
        async def test_lost_by_a_coroutine(tenancy_hops, url):
            await asyncio.to_thread(fetch, url)

        @pytest.mark.tenancy_key("pr-3")
        def test_lost_by_a_thread(tenancy_hops, url):
            thread = threading.Thread(target=fetch, args=(url,))
            thread.start()
            thread.join()

        @pytest.mark.usefixtures("tenancy_hops")
        class TestUsed(unittest.TestCase):
            @pytest.fixture(autouse=True)
            def _url(self, url):
                self.url = url

            @tenancy.scope("pr-4")
            def test_lost_by_a_unittest(self):
                fetch(self.url)

        def test_leaked(tenancy_hops, url, monkeypatch):
            import socket
            original = socket.getaddrinfo
            monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **more: original("127.0.0.1", *rest, **more))
            fetch(url.replace("127.0.0.1", "example.com"), tenancy.inject(key="pr-5"))

        def test_unasked(url):
            with tenancy.scope("pr-1"):
                fetch(url)
        """
    )
    result.assert_outcomes(passed=2, failed=5)
    result.stdout.fnmatch_lines(
        [
            "*_ test_lost _*",
            "1 of 1 outbound hops does not carry what it should:",
            "*GET http://127.0.0.1:*/stock, by http.client",
            "*carries no routing key, and the work is pr-1's",
            "*sent at test_it.py:*, in fetch",
            "*_ test_lost_by_a_coroutine _*",
            "*and the work is pr-2's",
            "*_ test_lost_by_a_thread _*",
            "*and the work is pr-3's. The context in which it was sent says nothing*",
            "*TestUsed.test_lost_by_a_unittest*",
            "*and the work is pr-4's",
            "*_ test_leaked _*",
            "*carries pr-5, to a host that is not trusted",
        ]
    )
    result.stdout.no_fnmatch_line("*plugin.py*")


def test_hops_before_and_after_the_body_count(run: Run) -> None:
    """Those of fixtures fail the test, or make it an error where it was over already; each is told once."""
    result = run(
        """
        @pytest.fixture
        def before(tenancy_hops, url):
            with tenancy.scope("pr-1"):
                fetch(url)

        @pytest.fixture
        def after(tenancy_hops, url):
            yield
            with tenancy.scope("pr-2"):
                fetch(url)

        def test_before(before): ...

        def test_after(after): ...

        def test_both(before, after): ...

        def test_seeding_under_the_marker_needs_none(tenancy_hops, seeded): ...

        test_seeding_under_the_marker_needs_none = pytest.mark.tenancy_key("pr-3")(test_seeding_under_the_marker_needs_none)

        @pytest.fixture
        def seeded(url):
            fetch(url)
            yield
            fetch(url)
        """
    )
    result.assert_outcomes(passed=2, failed=2, errors=2)
    assert result.stdout.str().count("the work is pr-1's") == 2
    assert result.stdout.str().count("the work is pr-2's") == 2


def test_a_test_that_fails_by_itself_tells_of_its_hops(run: Run) -> None:
    """Its own exception is the news, once; a skipped one is skipped."""
    result = run(
        """
        def test_failing(tenancy_hops, url):
            with tenancy.scope("pr-1"):
                fetch(url)
                fetch(url, tenancy.inject())
            raise LookupError("its own")

        def test_skipped(tenancy_hops, url):
            with tenancy.scope("pr-1"):
                fetch(url)
            pytest.skip("never mind")

        @pytest.mark.xfail(strict=True)
        def test_expected_to_fail(tenancy_hops, url):
            with tenancy.scope("pr-1"):
                fetch(url)
        """
    )
    result.assert_outcomes(failed=1, skipped=1, xfailed=1)
    result.stdout.fnmatch_lines(
        ["*LookupError: its own*", "*Captured outbound hops call*", "GET http*the work is pr-1's", "GET http*carries pr-1"]
    )


def test_hops_are_ignored_where_the_fixture_is_overridden(run: Run) -> None:
    """For a whole folder in its conftest.py, and for all of its tests by a fixture that is used everywhere."""
    result = run(
        """
        @pytest.fixture(autouse=True)
        def tenancy_hops(tenancy_hops):
            tenancy_hops.ignore("127.*")
            return tenancy_hops

        def test_ignored(url):
            with tenancy.scope("pr-1"):
                fetch(url)

        def test_one_that_is_not(url):
            with tenancy.scope("pr-1"):
                fetch(url.replace("127.0.0.1", "localhost"))
        """
    )
    result.assert_outcomes(passed=1, failed=1)


# Beside others


def test_without_the_plugin_nothing_is_there(run: Run) -> None:
    """It can be switched off, by the name that it has."""
    run("def test_it(tenancy_hops): ...", "-p", "no:tenancy", "-o", "addopts=").assert_outcomes(errors=1)


def test_no_fixture_is_used_by_itself(run: Run) -> None:
    """A test that asks for none has none; the names of all begin alike, and each says what it is for."""
    run(
        """
        def test_it(request):
            assert not [name for name in request.fixturenames if "tenancy" in name]
        """
    ).assert_outcomes(passed=1)
    listed = run("", "--fixtures").stdout.str()
    ours = re.search(r"-+ fixtures defined from \S*tenancy\S* -+\n(.*?)(?:\n-+ fixtures|\n=+|\Z)", listed, re.DOTALL)
    assert ours is not None, listed
    names = re.findall(r"^(\w+)", ours[1], re.MULTILINE)
    assert sorted(names) == ["tenancy_hops", "tenancy_key", "tenancy_routes", "tenancy_scope", "tenancy_settings"]
    assert "no docstring available" not in ours[1]
