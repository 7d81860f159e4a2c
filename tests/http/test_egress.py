from __future__ import annotations

import ipaddress
import logging
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

import tenancy
from tenancy.egress import Egress, current_egress
from tenancy.http.outbound import outbound
from tenancy.observe import _counters

DEFAULT = Egress()


@pytest.mark.parametrize(
    "host",
    [
        "orders", "Orders", "my_service", "orders-v2", "orders:8080", "internal", "svc",
        "localhost", "LOCALHOST", "localhost.", "localhost:80",
        "orders.shop.svc", "Orders.Shop.SVC", "orders.shop.svc.", "orders.shop.svc.cluster.local",
        "orders.shop.svc.cluster.local.",
        "db.internal", "a.b.internal", "metadata.google.internal",
        "10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.1.1", "127.0.0.1", "127.9.9.9",
        "169.254.1.1", "10.0.0.1:8080",
        "127.1", "2130706433", "0x7f000001", "0x7f.0.0.1", "0X7F.1",
        "::1", "[::1]", "[::1]:8080", "fd00::1", "[fd12:3456::1]", "fe80::1", "fe80::1%eth0", "[fe80::1%25eth0]", "FE80::1",
        "::ffff:10.0.0.1", "[::ffff:127.0.0.1]", "::ffff:7f00:1",
    ],
)  # fmt: skip
def test_private_hosts_are_trusted(host: str) -> None:
    """The names and addresses that stay inside a cluster are trusted in every spelling."""
    assert DEFAULT.allows(host)


@pytest.mark.parametrize(
    "host",
    [
        None, "", ".", "..", " ", "a b", " orders", "orders ", "orders\n", "orders\t", "\x00", "orders\x00", "-a", "a-", "a..svc", ".svc",
        "example.com", "EXAMPLE.COM", "example.com.", "orders.shop", "svc.example.com", "cluster.local.example.com",
        "notinternal.com",
        "evilsvc.com", "x.notsvc", "x.notinternal", "localhost.example.com", "cluster.local", "internal.example",
        "orders.", "com.", "ai.",  # one label and a dot: a top-level domain
        "8.8.8.8", "8.8.8.8.", "11.0.0.1", "172.15.255.255", "172.32.0.1", "192.169.0.1", "126.255.255.255",
        "128.0.0.1", "100.64.0.1", "0.0.0.0",
        "255.255.255.255", "192.0.2.1", "198.18.0.1",
        "134744072", "0x08080808", "0x8.0x8.0x8.0x8", "0x8.8.8.8", "8.8.2056", "8.526344", "010.010.010.010", "8.8.8.8:80",
        "012.0.0.1", "0177.0.0.1", "010.0.0.1",  # octal for some, decimal for others
        "08.0.0.1", "256.0.0.1", "10.0.0.256", "1.2.3.4.5", "10.0.0.0.1", "0x", "0xg.1", "4294967296",
        "99999999999999999999", "a.1", "10.1.x.0x1",
        "2001:4860:4860::8888", "[2001:4860:4860::8888]", "[2001:4860:4860::8888]:443", "2001:db8::1%orders", "::",
        "::ffff:8.8.8.8",
        "[::ffff:808:808]", "64:ff9b::808:808", "2002:0808:0808::1", "::8.8.8.8", ":::1", "[::1", "::1]", "[]", "[",
        "[orders]", "[10.0.0.1]",
        "user@orders", "user:password@orders", "orders@example.com", "orders:", "orders:x", "orders:80:90",
        "http://orders", "orders/", "//orders",
        "orders/path", "orders?x", "orders#x", "orders\\example.com", "orders%2eexample.com", "orders%00",
        "orders,example.com", "orders;x",
        "bücher.example", "fa\xdf.svc", "\uff4cocalhost", "\uff11\uff10.0.0.1", "orders\u3002svc", "\u0663.0.0.1",
        "10.0.0.\u0663", "orders\u200d.svc", "\udcff", "localho\u017ft",
        "a" * 64, "a." * 200 + "svc", "x" * 1000 + ".svc",
    ],
)  # fmt: skip
def test_everything_else_is_not(host: str | None) -> None:
    """Public names and addresses in every spelling, and whatever is not clearly a host, are not trusted."""
    assert not DEFAULT.allows(host)


@pytest.mark.parametrize(
    ("trusted", "host", "allowed"),
    [
        ("api.example.com", "api.example.com", True),
        ("api.example.com", "API.Example.com.", True),
        ("API.example.com.", "api.example.com", True),
        ("api.example.com", "x.api.example.com", False),
        ("api.example.com", "example.com", False),
        ("*.example.com", "a.example.com", True),
        ("*.example.com", "a.b.EXAMPLE.com.", True),
        ("*.example.com", "example.com", False),
        ("*.example.com", "badexample.com", False),
        ("*.example.com", "example.com.evil.org", False),
        ("203.0.113.0/24", "203.0.113.9", True),
        ("203.0.113.9/24", "203.0.113.10", True),
        ("203.0.113.0/24", "203.0.114.9", False),
        ("203.0.113.7", "203.0.113.7", True),
        ("203.0.113.7", "::ffff:203.0.113.7", True),
        ("203.0.113.7", "203.0.113.8", False),
        ("2001:db8::/32", "[2001:db8::5]:443", True),
        ("[2001:db8::5]", "2001:DB8:0::5", True),
        ("2001:db8::/32", "2001:db9::5", False),
        ("8.0.0.0/8", "012.0.0.1", False),
        ("0.0.0.0/0", "08.0.0.1", False),
        ("bücher.example", "xn--bcher-kva.example", True),
        ("xn--bcher-kva.example", "BÜCHER.example", True),
        ("orders.", "orders.", True),
    ],
)
def test_more_hosts_by_setting(trusted: str, host: str, allowed: bool) -> None:
    """Names, wildcards and networks of the setting are trusted, and nothing that only looks like them."""
    assert Egress([trusted]).allows(host) is allowed


@pytest.mark.parametrize(
    "entry", ["", "*", "*.", "**.a.com", "a.*.com", "https://a.com", "a.com:80", "a.com/x", "10.0.0.0/33", "0x7f.1", "1.2.3", "a b"]
)
def test_an_entry_that_means_nothing_is_refused(entry: str) -> None:
    """A setting that cannot be used raises, names the variable and shows what is possible."""
    with pytest.raises(tenancy.ConfigurationError, match=r"TENANCY_TRUSTED_HOSTS.*\*\.example\.com"):
        Egress([entry])


@given(st.integers(0, 2**32 - 1), st.sampled_from("dxXaA"))
def test_a_numeric_host_is_what_libc_connects_to(number: int, form: str) -> None:
    """However an IPv4 address is written, it is judged as the address that libc makes of it."""
    parts = [number >> 24, number >> 16 & 255, number >> 8 & 255, number & 255]
    host = {
        "d": str(number),
        "x": hex(number),
        "X": ".".join(f"0X{part:02X}" for part in parts),
        "a": f"{parts[0]}.{number & 0xFFFFFF}",
    }.get(form, f"{parts[0]}.{parts[1]}.{number & 0xFFFF:#x}")
    assert Egress().allows(host) == Egress().allows(socket.inet_ntoa(socket.inet_aton(host)))


@given(st.text(max_size=40) | st.from_regex(r"[a-z0-9.:@%\[\]/\\-]{0,40}", fullmatch=True))
def test_what_is_trusted_is_plainly_private(host: str) -> None:
    """No text raises, and a trusted one has no character that could make two parsers disagree."""
    if DEFAULT.allows(host):
        assert not set(host) & set("@/\\?#; ")
        try:
            address = ipaddress.ip_address(host.rstrip("."))
        except ValueError:
            return
        assert address.is_private or address.is_link_local or address.is_loopback


def test_the_memory_is_bounded() -> None:
    """A million hosts do not fill the memory."""
    egress = Egress()
    for number in range(3000):
        egress.allows(f"host-{number}.example.com")
    assert egress._remembered.cache_info().currsize <= 1024


def test_the_settings_rule() -> None:
    """The rule in force is the defaults and TENANCY_TRUSTED_HOSTS."""
    assert not current_egress().allows("api.example.com")
    tenancy.configure(trusted_hosts="api.example.com, *.corp.example, 100.64.0.0/10")
    assert all(map(current_egress().allows, ["api.example.com", "a.corp.example", "100.64.1.1", "orders"]))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> InMemoryMetricReader:
    reader = InMemoryMetricReader()
    meter = MeterProvider([reader]).get_meter("tenancy")
    monkeypatch.setattr(_counters, "_counters", {name: meter.create_counter(name) for name in _counters._DESCRIPTIONS})
    return reader


def points(reader: InMemoryMetricReader, name: str) -> list[tuple[dict[str, str], int]]:
    data = reader.get_metrics_data()
    metrics = (
        [metric for found in data.resource_metrics for scope in found.scope_metrics for metric in scope.metrics] if data else []
    )
    return [(dict(point.attributes), point.value) for metric in metrics if metric.name == name for point in metric.data.data_points]


def test_every_drop_is_counted_and_the_first_is_told(counted: InMemoryMetricReader, caplog: pytest.LogCaptureFixture) -> None:
    """The first drop for each host is a warning that names the host and the setting; the counter has no host in its labels."""
    with tenancy.scope("pr-42"), caplog.at_level(logging.WARNING, "tenancy"):
        for host in ["example.com", "example.com", "example.org", "example.com", "orders", None]:
            outbound([("a", "1")], host, adapter="test")
    messages = [record.getMessage() for record in caplog.records]
    assert [message.count("TENANCY_TRUSTED_HOSTS") for message in messages] == [1, 1, 1]
    assert "'example.com'" in messages[0]
    assert "'example.org'" in messages[1]
    assert "pr-42" not in caplog.text
    assert points(counted, "tenancy.egress.withheld") == [({"adapter": "test"}, 5)]


def test_without_a_key_nothing_is_done(counted: InMemoryMetricReader) -> None:
    """A request of the baseline keeps its headers, wherever it goes."""
    assert outbound([("baggage", "a=1")], "example.com", adapter="test").headers is None
    assert outbound([], "orders", adapter="test").headers is None
    assert points(counted, "tenancy.egress.withheld") == []


def test_headers_to_a_trusted_host() -> None:
    """One entry of ours, first; a stale key is replaced; the members of others keep their bytes."""
    headers = [
        ("Accept", "*/*"),
        ("Baggage", "a=1;p , sd-routing-key=stale,%41b=%20"),
        ("baggage", "c=3"),
        ("ot-baggage-sd-routing-key", "old"),
    ]
    before = list(headers)
    with tenancy.scope("pr-42"):
        leaving = outbound(headers, "orders", adapter="test")
    assert leaving[:2] == ([("Accept", "*/*"), ("baggage", "sd-routing-key=pr-42,a=1;p ,%41b=%20,c=3")], None)
    assert headers == before


def test_headers_to_any_other_host() -> None:
    """Ours is taken out of every field that can hold it, and what others wrote stays."""
    headers = [
        ("baggage", "a=1,sd-routing-key=pr-42"),
        ("uberctx-sd-routing-key", "pr-42"),
        ("tracestate", "v=1,sd-routing-key=pr-42"),
    ]
    with tenancy.scope("pr-42"):
        leaving = outbound(headers, "example.com", adapter="test")
    assert leaving[:2] == ([("baggage", "a=1"), ("tracestate", "v=1")], "pr-42")
    assert leaving.context is not None
    assert tenancy.routing_key(leaving.context) is None


def test_a_key_that_the_caller_wrote_is_kept_for_trusted_hosts() -> None:
    """Where nothing is current, a request that names a key itself keeps it; where the work has none on purpose, it does not."""
    headers = [("baggage", "a=1,sd-routing-key=pr-7;x=1")]
    assert outbound(headers, "orders", adapter="test").headers == [("baggage", "sd-routing-key=pr-7,a=1")]
    with tenancy.scope(None):
        assert outbound(headers, "orders", adapter="test").headers == [("baggage", "a=1")]


def test_a_key_that_the_caller_wrote_is_withheld_as_well(counted: InMemoryMetricReader) -> None:
    """It counts as any other that did not leave."""
    assert outbound([("baggage", "sd-routing-key=pr-7")], "example.com", adapter="test")[:2] == ([], None)
    assert points(counted, "tenancy.egress.withheld") == [({"adapter": "test"}, 1)]


def test_a_malformed_key_is_not_sent(counted: InMemoryMetricReader) -> None:
    """It is counted and leaves nothing behind."""
    assert outbound([("baggage", "sd-routing-key=PR_42,a=1")], "orders", adapter="test").headers == [("baggage", "a=1")]
    assert points(counted, "tenancy.keys.malformed") == [({"adapter": "test"}, 1)]
