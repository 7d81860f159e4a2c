"""
The pure part: what is refused, and that equal input gives equal bytes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tenancy import ConfigurationError, MissingDependencyError, RoutingKey
from tenancy.config import DIALECTS, Field
from tenancy.mesh import Baseline, Endpoint, EnvoyTarget, Fork, Listener, render


def at(port: int, host: str = "10.0.0.1") -> Endpoint:
    return Endpoint(host, port)


WEB = Baseline("shop/web", at(8001))
PRICING = Baseline("shop/pricing", at(8002))
LISTENERS = (Listener("shop/web", at(15001, "127.0.0.1")), Listener("shop/pricing", at(15002, "127.0.0.1")))
TARGET = EnvoyTarget(LISTENERS)


def fork(workload: str = "shop/web", key: str = "pr-42", sandbox: str = "pr-42", port: int = 9001) -> Fork:
    return Fork(workload, key, sandbox, at(port))


def bootstrap(baselines: Any = (WEB, PRICING), forks: Any = (), target: EnvoyTarget = TARGET) -> dict[str, Any]:
    (document,) = render(baselines, forks, target)
    return json.loads(document.to_json())  # type: ignore[no-any-return]


LABELS = st.from_regex(r"[a-z]([a-z0-9-]{0,6}[a-z0-9])?", fullmatch=True)
KEYS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,6}[a-z0-9])?", fullmatch=True).filter(lambda key: RoutingKey.parse(key) is not None)


@st.composite
def shops(draw: st.DrawFn) -> tuple[list[Baseline], list[Fork], list[Listener]]:
    names = draw(st.lists(st.tuples(LABELS, LABELS).map("/".join), min_size=1, max_size=6, unique=True))
    ports = iter(range(10_000, 20_000))
    protocols = st.sampled_from(["http1", "http2", "grpc"])
    baselines = [Baseline(name, at(next(ports)), draw(protocols), timeout=draw(st.none() | st.just(2.5))) for name in names]
    pairs = draw(st.lists(st.tuples(st.sampled_from(names), KEYS), max_size=12, unique=True))
    forks = [Fork(name, key, draw(KEYS), at(next(ports))) for name, key in pairs]
    listeners = [
        Listener(name, at(next(ports)), edge=draw(st.booleans())) for name in [*names, *draw(st.lists(st.sampled_from(names)))]
    ]
    return baselines, forks, listeners


@given(shops(), st.randoms())
@settings(max_examples=25, deadline=None)
def test_the_order_of_the_input_does_not_matter(shop: tuple[list[Baseline], list[Fork], list[Listener]], chance: Any) -> None:
    """The same shop in any order gives the same bytes, as JSON and as YAML, and the input stays as it was."""
    baselines, forks, listeners = shop
    first = render(baselines, forks, EnvoyTarget(listeners))
    shuffled = [chance.sample(each, len(each)) for each in (baselines, forks, listeners)]
    second = render(iter(shuffled[0]), iter(shuffled[1]), EnvoyTarget(shuffled[2]))
    assert [each.to_json() for each in first] == [each.to_json() for each in second]
    assert [each.to_yaml() for each in first] == [each.to_yaml() for each in second]
    assert yaml.safe_load(first[0].to_yaml()) == json.loads(first[0].to_json()) == first[0].content


def test_routes_are_sorted_by_namespace_service_and_key() -> None:
    """By the parts of a name, not by its text: "a/z" comes before "a-b/c"."""
    baselines = [Baseline(name, at(8001)) for name in ("a-b/c", "a/z", "a/b")]
    forks = [fork("a/z", key) for key in ("b", "a-1", "a")]
    listeners = [Listener(each.workload, at(15001 + n, "127.0.0.1")) for n, each in enumerate(baselines)]
    clusters = [each["name"] for each in bootstrap(baselines, forks, EnvoyTarget(listeners))["static_resources"]["clusters"]]
    assert clusters == ["a/b@baseline", "a/z@baseline", "a/z@a", "a/z@a-1", "a/z@b", "a-b/c@baseline"]


def test_the_fingerprint_changes_with_the_content_only() -> None:
    """What runs can be compared with what was rendered."""

    def fingerprint(**arguments: Any) -> str:
        return bootstrap(**arguments)["node"]["metadata"]["tenancy"]["sha256"]  # type: ignore[no-any-return]

    assert len(fingerprint()) == 64
    assert fingerprint(forks=[fork(), fork(key="a")]) == fingerprint(forks=[fork(key="a"), fork()])
    assert len({fingerprint(), fingerprint(forks=[fork()]), fingerprint(forks=[fork(port=9002)])}) == 3


def test_a_thousand_sandboxes_render_within_a_second() -> None:
    """Each forks both workloads. In CPU time, which other work on the machine does not change."""
    forks = [Fork(name, f"pr-{n}", f"pr-{n}", at(9001)) for n in range(1000) for name in ("shop/web", "shop/pricing")]
    started = time.process_time()
    (document,) = render([WEB, PRICING], forks, TARGET)
    text = document.to_json()
    assert time.process_time() - started < 1.0
    assert text.count('"pr-999"') > 0


def test_one_key_may_lead_to_several_sandboxes() -> None:
    """A route group: different workloads, forked by different sandboxes, under one key; and one fork under two keys."""
    forks = [fork(key="rg-1", sandbox="pr-1"), fork("shop/pricing", key="rg-1", sandbox="pr-2"), fork(key="pr-1", sandbox="pr-1")]
    assert len(bootstrap(forks=forks)["static_resources"]["clusters"]) == 5


def refused(match: str) -> Any:
    return pytest.raises(ConfigurationError, match=match)


def test_two_owners_are_refused() -> None:
    """The message names both sandboxes, the workload and the key, in one order whatever the input's."""
    forks = [fork(sandbox="pr-2"), fork(sandbox="pr-1")]
    for each in (forks, forks[::-1]):
        with refused("^sandboxes pr-1 and pr-2 both fork shop/web under the key pr-42; a key leads to one fork"):
            render([WEB, PRICING], each, TARGET)
    with refused("^sandbox pr-42 twice forks shop/web under the key pr-42"):
        render([WEB, PRICING], [fork(), fork(port=9002)], TARGET)
    with refused("^shop/web has two baselines, at 10.0.0.1:8001 and at 10.0.0.1:8003; list each workload once"):
        render([WEB, PRICING, Baseline("shop/web", at(8003))], [], TARGET)


def test_no_owner_is_refused() -> None:
    """A fork without a baseline, a workload without an entrance, and the other way around."""
    with refused("sandbox pr-42 forks shop/gone, which has no baseline route; add the workload's baseline, or remove the fork"):
        render([WEB, PRICING], [fork("shop/gone")], TARGET)
    with refused("^no listener for shop/orders; add a Listener"):
        render([WEB, PRICING, Baseline("shop/orders", at(8003))], [], TARGET)
    with refused("^a listener for shop/pricing, which has no baseline route"):
        render([WEB], [], TARGET)


def test_loops_are_refused() -> None:
    """Envoy must not be its own upstream, neither by its address nor through a listener on all of them."""
    loop = Fork("shop/web", "pr-42", "pr-42", Endpoint("127.0.0.1", 15002))
    with refused("^shop/web is sent to 127.0.0.1:15002, where Envoy itself listens for shop/pricing: that is a loop"):
        render([WEB, PRICING], [loop], TARGET)
    with refused("that is a loop"):
        render([WEB], [loop], EnvoyTarget([Listener("shop/web", Endpoint("0.0.0.0", 15002))]))
    with refused("^shop/web is sent to localhost:15001"):
        render([Baseline("shop/web", Endpoint("localhost", 15001))], [], EnvoyTarget(LISTENERS[:1]))
    render([WEB], [fork(port=15002)], EnvoyTarget([Listener("shop/web", Endpoint("0.0.0.0", 15002))]))


@pytest.mark.parametrize(
    "key", ["PR-42", "", "-a", "a-", "a_b", "a b", "x" * 64, "baseline", "default", None, 42, b"pr-42", "pr-42\n"]
)
def test_bad_keys_are_refused(key: Any) -> None:
    """As a key and as a sandbox's name."""
    with refused("the key of a fork of shop/web cannot be used: .*routing key"):
        fork(key=key)
    with refused("the sandbox of a fork of shop/web cannot be used"):
        fork(sandbox=key)


@pytest.mark.parametrize(
    "name", ["web", "shop/", "/web", "a/b/c", "Shop/web", "shop/web ", "shop/we_b", "", None, "shop/web\n", "s/" + "x" * 64]
)
def test_bad_workloads_are_refused(name: Any) -> None:
    """A workload is namespace/name."""
    for make in (lambda: Baseline(name, at(1)), lambda: fork(name), lambda: Listener(name, at(1))):
        with refused("is not a workload; write namespace/name"):
            make()


@pytest.mark.parametrize("port", [0, -1, 65536, "80", 80.0, True, None])
def test_bad_ports_are_refused(port: Any) -> None:
    """A port is a number from 1 to 65535."""
    with refused("is not a port of 10.0.0.1; use a number from 1 to 65535"):
        Endpoint("10.0.0.1", port)


HOSTS = [
    "",
    " ",
    "a b",
    "host:80",
    "[::1]",
    "256.1.1.1",
    "1.2.3",
    "10.0.0.1.",
    "a..b",
    "-a",
    "x" * 64,
    "a." * 127,
    "fe80::1%eth0",
    "http://a",
    "a/b",
]


@pytest.mark.parametrize("host", [*HOSTS, None, "h\n", "é"])
def test_bad_hosts_are_refused(host: Any) -> None:
    """A host is an address or a DNS name."""
    with refused("is not a host: .*; use an IP address or a DNS name"):
        Endpoint(host, 80)


@pytest.mark.parametrize(
    "host", ["localhost", "pricing.shop.svc.cluster.local", "pricing.shop.svc.", "::1", "10.0.0.1", "my_service", "a1"]
)
def test_good_hosts(host: str) -> None:
    """Names of clusters and of containers, and addresses of both kinds."""
    assert Endpoint(host, 80).host == host


def test_endpoints_are_read_and_written() -> None:
    """As host:port, with brackets around IPv6."""
    for text in ("127.0.0.1:80", "[::1]:80", "pricing.shop.svc:8080"):
        assert str(Endpoint.parse(text)) == text
    for text in ("", "80", ":80", "host", "host:", "host:x", "host:-1", "::1:80", "[::1]", "host:99999", "host:٣", "host:000080"):
        with refused("."):
            Endpoint.parse(text)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), 1e12, "5", True])
def test_bad_times_are_refused(value: Any) -> None:
    """A time is seconds, more than none and not for ever."""
    for name in ("timeout", "idle_timeout", "connect_timeout"):
        with refused(f"the {name} of shop/web is .*; give seconds"):
            Baseline("shop/web", at(1), **{name: value})
    with refused("keep_alive is .*; give seconds"):
        EnvoyTarget(LISTENERS, keep_alive=value)


def test_other_bad_values_are_refused() -> None:
    """Each with a sentence that names the value."""
    with refused("has the protocol 'ftp'; use one of http1, http2, grpc"):
        Baseline("shop/web", at(1), "ftp")  # type: ignore[arg-type]
    with refused("the upstream of shop/web is '10.0.0.1:80'; give an Endpoint"):
        Baseline("shop/web", "10.0.0.1:80")  # type: ignore[arg-type]
    with refused("the upstream of the fork of shop/web in sandbox pr-42 is 0.0.0.0:80, where nothing can be reached"):
        Fork("shop/web", "pr-42", "pr-42", Endpoint("0.0.0.0", 80))
    with refused("shop/web listens on localhost:80; give an Endpoint with an IP address"):
        Listener("shop/web", Endpoint("localhost", 80))
    with refused("trusts 10.0.0.0/8, but is no edge"):
        Listener("shop/web", at(1), trusted=("10.0.0.0/8",))
    with refused("is one string, '10.0.0.0/8'; give a tuple of networks"):
        Listener("shop/web", at(1), edge=True, trusted="10.0.0.0/8")
    for network in ("10.0.0.1/8", "internal", "10.0.0.0/33"):
        with refused("which is no network"):
            Listener("shop/web", at(1), edge=True, trusted=(network,))
    for network in ("0.0.0.0/0", "::/0"):
        with refused("which is everyone"):
            Listener("shop/web", at(1), edge=True, trusted=(network,))
    with refused("max_header_kilobytes is 0"):
        EnvoyTarget(LISTENERS, max_header_kilobytes=0)
    with refused("admin is localhost:9901"):
        EnvoyTarget(LISTENERS, admin=Endpoint("localhost", 9901))
    with refused("read is empty"):
        EnvoyTarget(LISTENERS, read=())
    for field in (Field("baggage", 'a"]]--'), Field("baggage", ""), Field("tracestate", "a\nb"), Field("cookie", "a")):  # type: ignore[arg-type]
        with refused("read has "):
            EnvoyTarget(LISTENERS, read=(field,))
    for header in ("", "x y", 'x"', "x_y", "Host", "BAGGAGE", ":path", "x\n"):
        with refused("cannot be the name of a routing key's header"):
            EnvoyTarget(LISTENERS, header=header)
        with refused("cannot be the name of a routing key's header"):
            EnvoyTarget(LISTENERS, read=(Field("header", header),))


@pytest.mark.parametrize(
    ("one", "other"), [("127.0.0.1", "127.0.0.1"), ("127.0.0.1", "0.0.0.0"), ("::1", "0:0:0:0:0:0:0:1"), ("::", "::1")]
)
def test_two_on_one_address_are_refused(one: str, other: str) -> None:
    """Two entrances, or an entrance and the administration interface."""
    with refused("shop/web on .* and shop/pricing on .* collide|shop/pricing on .* and shop/web on .* collide"):
        EnvoyTarget([Listener("shop/web", Endpoint(one, 80)), Listener("shop/pricing", Endpoint(other, 80))])
    with refused("the administration interface on .* collide"):
        EnvoyTarget([Listener("shop/web", Endpoint(one, 80))], admin=Endpoint(other, 80))
    EnvoyTarget([Listener("shop/web", Endpoint("127.0.0.1", 80)), Listener("shop/pricing", Endpoint("127.0.0.2", 80))])


def test_input_is_frozen() -> None:
    """What was checked stays as it was checked, and a fork's key is a routing key."""
    assert isinstance(fork().key, RoutingKey)
    for thing, name in ((WEB, "upstream"), (fork(), "key"), (LISTENERS[0], "edge"), (TARGET, "read"), (at(1), "port")):
        with pytest.raises(FrozenInstanceError):
            setattr(thing, name, None)


def manager(rendered: dict[str, Any], listener: int = 0, chain: str = "filter_chains") -> dict[str, Any]:
    chains = rendered["static_resources"]["listeners"][listener][chain]
    return (chains[0] if isinstance(chains, list) else chains)["filters"][0]["typed_config"]  # type: ignore[no-any-return]


def test_streams_are_not_cut_by_default() -> None:
    """No limit on a response, an hour of silence; Envoy's own defaults are 15 seconds and 5 minutes."""
    host = manager(bootstrap([WEB], [], EnvoyTarget(LISTENERS[:1])))["route_config"]["virtual_hosts"][0]
    assert host["routes"][0]["route"] == {"cluster": "shop/web@baseline", "timeout": "0s", "idle_timeout": "3600s"}
    limited = Baseline("shop/web", at(8001), timeout=2.5, idle_timeout=None, connect_timeout=0.25)
    rendered = bootstrap([limited], [], EnvoyTarget(LISTENERS[:1]))
    action = manager(rendered)["route_config"]["virtual_hosts"][0]["routes"][0]["route"]
    assert (action["timeout"], action["idle_timeout"]) == ("2.5s", "0s")
    assert rendered["static_resources"]["clusters"][0]["connect_timeout"] == "0.25s"


def test_the_stripping_chain_knows_no_fork() -> None:
    """At the edge nothing leads to a fork, so not even a fault in the filter could."""
    target = EnvoyTarget([Listener("shop/web", at(15001), edge=True, trusted=["::1", "10.0.0.0/8", "9.0.0.0/8", "10.0.0.0/8"])])
    rendered = bootstrap([WEB], [fork()], target)
    (listener,) = rendered["static_resources"]["listeners"]
    assert "pr-42" not in json.dumps(listener["default_filter_chain"])
    (trusted,) = listener["filter_chains"]
    assert "pr-42" in json.dumps(trusted)
    assert [each["address_prefix"] for each in trusted["filter_chain_match"]["source_prefix_ranges"]] == [
        "9.0.0.0",
        "10.0.0.0",
        "::1",
    ]


def test_names_are_parameters() -> None:
    """The member, the fields and the plain header are the team's own."""
    target = EnvoyTarget(LISTENERS[:1], read=(*DIALECTS["okteto"], Field("header", "X-Team")), header="X-Owner")
    script = manager(bootstrap([WEB], [], target))["http_filters"][0]["typed_config"]["default_source_code"]["inline_string"]
    assert script.startswith('local READ = {{"baggage", "okteto-divert"}, {"header", "x-team"}}\nlocal HEADER = "x-owner"\n')
    assert "sd-routing-key" not in script


def test_yaml_survives_other_readers() -> None:
    """Every text that some YAML reader takes for a number, a date or a truth value is quoted."""
    keys = ["1e3", "0x1f", "123", "on", "no", "y", "null1", "2026-11-22", "0o7", "1-2", "true"]
    (document,) = render([WEB, PRICING], [fork(key=key) for key in keys], TARGET)
    text = document.to_yaml()
    for key in keys:
        if key != "null1":
            assert f"\n                      '{key}':\n" in text, key
    assert yaml.safe_load(text) == document.content


def test_yaml_needs_pyyaml(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, the error names the command to run; JSON needs nothing."""
    monkeypatch.setitem(sys.modules, "yaml", None)
    (document,) = render([WEB, PRICING], [], TARGET)
    assert document.to_json()
    with pytest.raises(MissingDependencyError, match=r"request-tenancy\[yaml\]"):
        document.to_yaml()


def test_importing_loads_nothing_heavy() -> None:
    """The mesh needs the standard library and opentelemetry-api alone."""
    code = "import sys, tenancy.mesh; print(*sorted(set(sys.modules) & {'yaml', 'grpc', 'envoy', 'jsonschema'}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""
