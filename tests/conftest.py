from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from uuid import uuid4

import pytest
from opentelemetry import context, trace

from tenancy.testing import Configure
from tests import services


@pytest.fixture(autouse=True)
def _own_settings(tenancy_settings: Configure) -> None:
    """Every test starts with the default settings, no open route table and no warning given, and leaves nothing of it behind."""


@pytest.fixture(autouse=True)
def _no_span_left() -> Iterator[None]:
    """No test leaves a span behind that those after it would be part of."""
    yield
    span = trace.get_current_span()
    if span is not trace.INVALID_SPAN:
        context.attach(trace.set_span_in_context(trace.INVALID_SPAN))
    assert span is trace.INVALID_SPAN, f"{span} is still the current span: detach it, or work in a context of its own"


@pytest.fixture(scope="session")
def kafka() -> Iterator[str]:
    """The bootstrap servers of a real Kafka."""
    yield from _address("kafka")


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[str]:
    """The URL of a real RabbitMQ."""
    yield from _address("rabbitmq")


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The DSN of a real PostgreSQL, as a superuser in the database `tenancy`."""
    yield from _address("postgresql")


@pytest.fixture(scope="session")
def mariadb() -> Iterator[str]:
    """The URL of a real MariaDB, as root in the database `tenancy`."""
    yield from _address("mariadb")


@pytest.fixture(scope="session")
def pgbouncer() -> Iterator[str]:
    """The DSN of a real PgBouncer in transaction mode, as a superuser of the PostgreSQL behind it in the database `tenancy`."""
    yield from _address("pgbouncer")


@pytest.fixture(scope="session")
def redis() -> Iterator[str]:
    """The URL of a real Redis."""
    yield from _address("redis")


@pytest.fixture
def unique() -> str:
    """A short name for a topic, queue, table or key that nothing else has used."""
    return f"t{uuid4().hex[:11]}"


@pytest.fixture
def own_service() -> Iterator[Callable[[str], services.Service]]:
    """Starts servers of the test's own, which it may stop, kill and start again."""
    with ExitStack() as stack:
        yield lambda name: stack.enter_context(_started(name, own=True))


def _address(name: str) -> Iterator[str]:
    with _started(name) as service:
        yield service.address


def _started(name: str, own: bool = False) -> services.Service:
    """Start a service; skip where it cannot be had, and fail where it must be."""
    try:
        return services.start(name, own=own)
    except services.Unavailable as reason:
        if services.flag("TENANCY_REQUIRE_SERVICES"):
            pytest.fail(f"TENANCY_REQUIRE_SERVICES is set, but there is {reason}", pytrace=False)
        pytest.skip(str(reason))
