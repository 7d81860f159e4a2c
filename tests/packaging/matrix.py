"""
The table that everything here is driven by: a line for each extra.

Nothing but the standard library is imported, since it is read in environments that have nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["CORE", "EXTRAS", "NOT_ALONE", "TOOLS", "Row", "opentelemetry"]


class Row(NamedTuple):
    """
    One extra.

    Args:
        package: What must be there for the modules to be imported, by its import name.
        modules: Modules of ours that need it.
        instruments: Names of `tenancy.instrument` that need it.
        tests: Tests of them that need no server but their own.
        beside: What else these tests import, as requirements.
    """

    package: str
    modules: tuple[str, ...] = ()
    instruments: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()


def opentelemetry(*names: str) -> tuple[str, ...]:
    """
    Return the requirements for tests beside these instrumentations of OpenTelemetry's.
    """
    return ("opentelemetry-sdk", *(f"opentelemetry-instrumentation-{name}" for name in names))


#: What every test needs.
TOOLS = ("pytest", "pytest-asyncio", "pytest-timeout", "hypothesis")

_HTTP = ("httpx", "uvicorn", "websockets")

#: Without any extra.
CORE = Row(
    package="opentelemetry",
    modules=(
        *("tenancy", "tenancy.executors", "tenancy.mesh", "tenancy.observe", "tenancy.routes", "tenancy.testing"),
        *("tenancy.http.asgi", "tenancy.http.edge", "tenancy.http.urllib", "tenancy.http.wsgi"),
    ),
    instruments=("urllib", "concurrent.futures"),
    tests=(
        *("tests/test_codec.py", "tests/test_config.py", "tests/test_executors.py", "tests/test_key.py", "tests/test_naming.py"),
        *("tests/test_propagator.py", "tests/test_scope.py", "tests/routes", "tests/observe"),
    ),
    beside=("opentelemetry-sdk",),
)

EXTRAS: Mapping[str, Row] = {
    "fastapi": Row(
        "fastapi",
        ("tenancy.http.fastapi",),
        ("fastapi",),
        ("tests/http/test_fastapi.py",),
        (*_HTTP, *opentelemetry("fastapi")),
    ),
    "flask": Row("flask", ("tenancy.http.flask",), ("flask",), ("tests/http/test_flask.py",), (*_HTTP, *opentelemetry("flask"))),
    "django": Row(
        "django", ("tenancy.http.django",), ("django",), ("tests/http/test_django.py",), (*_HTTP, *opentelemetry("django"))
    ),
    "aiohttp": Row(
        "aiohttp",
        ("tenancy.http.aiohttp_client", "tenancy.http.aiohttp_server"),
        ("aiohttp", "aiohttp.web"),
        ("tests/http/test_aiohttp_client.py", "tests/http/test_aiohttp_server.py"),
        (*_HTTP, *opentelemetry("aiohttp-client", "aiohttp-server")),
    ),
    "requests": Row(
        "requests",
        ("tenancy.http.requests",),
        ("requests",),
        ("tests/http/test_requests.py",),
        (*_HTTP, *opentelemetry("requests")),
    ),
    "httpx": Row("httpx", ("tenancy.http.httpx",), ("httpx",), ("tests/http/test_httpx.py",), (*_HTTP, *opentelemetry("httpx"))),
    "urllib3": Row(
        "urllib3", ("tenancy.http.urllib3",), ("urllib3",), ("tests/http/test_urllib3.py",), (*_HTTP, *opentelemetry("urllib3"))
    ),
    "grpc": Row("grpc", ("tenancy.grpc",), ("grpc",), ("tests/grpc",), opentelemetry("grpc")),
    "kafka": Row(
        "confluent_kafka",
        ("tenancy.messaging.confluent_kafka",),
        tests=("tests/messaging/test_confluent_kafka.py",),
        beside=opentelemetry("confluent-kafka"),
    ),
    "rabbitmq": Row(
        "aio_pika",
        ("tenancy.messaging.aio_pika",),
        tests=("tests/messaging/test_aio_pika.py",),
        beside=opentelemetry("aio-pika"),
    ),
    "sqlalchemy": Row(
        "sqlalchemy", ("tenancy.data.sqlalchemy",), tests=("tests/data",), beside=("aiosqlite", "greenlet", "opentelemetry-sdk")
    ),
    "yaml": Row("yaml", tests=("tests/routes", "tests/mesh/test_render.py")),
    "testing": Row("pytest", ("tenancy.testing.plugin",), tests=("tests/testing/test_carriers.py", "tests/testing/test_plugin.py")),
    "cli": Row("rich", ("tenancy.cli.root",)),
}

#: Extras that are none of the table's: all of it, and OpenTelemetry's own instrumentations, which no module of ours needs.
NOT_ALONE = {"all", "opentelemetry"}
