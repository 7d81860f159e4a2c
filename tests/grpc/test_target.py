from __future__ import annotations

import pytest
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceState, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

import tenancy
from tenancy.context import attached
from tenancy.grpc.metadata import outgoing
from tenancy.grpc.target import Destination, hosts_of


@pytest.mark.parametrize(
    ("target", "hosts"),
    [
        ("orders", ["orders"]),
        ("orders:50051", ["orders"]),
        ("orders.shop.svc.cluster.local:https", ["orders.shop.svc.cluster.local"]),
        ("10.0.0.1:50051", ["10.0.0.1"]),
        ("[::1]:50051", ["::1"]),
        ("[2001:db8::1]", ["2001:db8::1"]),
        ("2001:db8::1", ["2001:db8::1"]),
        ("dns:orders:50051", ["orders"]),
        ("dns:///orders:50051", ["orders"]),
        ("DNS:///orders:50051", ["orders"]),
        ("dns://8.8.8.8/orders.example:50051", ["orders.example"]),
        ("dns:///[::1]:50051", ["::1"]),
        ("ipv4:10.0.0.1:80,8.8.8.8:80", ["10.0.0.1", "8.8.8.8"]),
        ("ipv4:10.0.0.1", ["10.0.0.1"]),
        ("ipv6:[::1]:80,[2001:db8::1]:80", ["::1", "2001:db8::1"]),
        ("ipv6:2001:db8::1", ["2001:db8::1"]),
        ("xds:///orders.shop:8080", ["orders.shop"]),
        ("xds://control.example/orders", ["orders"]),
        ("unix:/run/orders.sock", []),
        ("unix:orders.sock", []),
        ("unix:///run/orders.sock", []),
        ("unix-abstract:orders", []),
    ],
)
def test_the_hosts_of_a_target(target: str, hosts: list[str]) -> None:
    """A target's hosts are read from every form that grpc's resolvers take."""
    found = hosts_of(target)
    assert found is not None
    assert list(found) == hosts


@pytest.mark.parametrize(
    ("target", "trusted"),
    [
        ("orders:50051", True),
        ("localhost:50051", True),
        ("dns:///orders.shop.svc:50051", True),
        ("ipv4:10.0.0.1:80,10.0.0.2:80", True),
        ("unix:/run/orders.sock", True),
        ("[::1]:50051", True),
        ("api.example.com:443", False),
        ("dns://10.0.0.53/api.example.com", False),
        ("ipv4:10.0.0.1:80,8.8.8.8:80", False),
        ("2001:db8::1", False),
        ("http://orders:80", False),
        ("dns:////orders", False),
        ("dns:///user@orders", False),
        ("vsock:2:50051", False),
        ("dns:///", False),
        ("ipv4:10.0.0.1:80,", False),
        ("", False),
    ],
)
def test_a_target_is_trusted_if_all_its_hosts_are(target: str, trusted: bool) -> None:
    """What is not clearly a private host is not trusted."""
    assert Destination(target).trusted is trusted


def test_more_hosts_by_setting() -> None:
    """The setting trusted_hosts adds hosts."""
    tenancy.configure(trusted_hosts="api.example.com")
    assert Destination("dns:///api.example.com:443").trusted


def test_a_tracestate_that_came_in_does_not_take_a_key_to_an_untrusted_target() -> None:
    """What another interceptor sends of the current span names no key where the target must not see one."""
    state = TraceState([("vendor", "1"), ("sd-routing-key", "pr-42")])
    span = NonRecordingSpan(SpanContext(1, 2, is_remote=True, trace_state=state))
    with attached(set_span_in_context(span)):
        assert outgoing(None, Destination(trusted=True)) is None
        sent = outgoing(None, Destination("api.example.com:443"))
        assert sent is not None
        assert sent.context is not None
        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier, sent.context)
        assert carrier["tracestate"] == "vendor=1"
    assert outgoing(None, Destination("api.example.com:443")) is None
