"""
The table that everything here is driven by: a line for each extra.

Nothing but the standard library is imported, since it is read in environments that have nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["CORE", "EXTRAS", "NOT_ALONE", "TOGETHER", "TOOLS", "Row", "opentelemetry"]


class Row(NamedTuple):
    """
    One extra.

    Args:
        package: What must be there for the modules to be imported, by its import name.
        modules: Modules of ours that need it.
        instruments: Names of `tenancy.instrument` that need it.
        tests: Tests of them that need no server but their own.
        beside: What else these tests import, as requirements.
        options: Options for pytest.
        period: What the lowest versions need besides, because they break with later releases of what they themselves require.
    """

    package: str
    modules: tuple[str, ...] = ()
    instruments: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    period: tuple[str, ...] = ()


def opentelemetry(*names: str) -> tuple[str, ...]:
    """
    Return the requirements for tests beside these instrumentations of OpenTelemetry's.
    """
    return ("opentelemetry-sdk", *(f"opentelemetry-instrumentation-{name}" for name in names))


#: What every test needs.
TOOLS = ("pytest", "pytest-asyncio", "pytest-timeout", "hypothesis")

_HTTP = ("httpx", "uvicorn", "websockets")
_WSGI = (*_HTTP, "waitress", "werkzeug")

#: Without any extra.
CORE = Row(
    package="opentelemetry",
    modules=(
        *("tenancy", "tenancy.executors", "tenancy.mesh", "tenancy.messaging.deduplication", "tenancy.observe"),
        *("tenancy.routes", "tenancy.testing"),
        *("tenancy.http.asgi", "tenancy.http.edge", "tenancy.http.urllib", "tenancy.http.wsgi"),
    ),
    instruments=("urllib", "concurrent.futures"),
    tests=(
        *("tests/test_codec.py", "tests/test_config.py", "tests/test_executors.py", "tests/test_key.py", "tests/test_naming.py"),
        *("tests/test_propagator.py", "tests/test_scope.py", "tests/observe"),
        *(f"tests/routes/test_{name}.py" for name in ("admission", "identity", "live", "table", "signadot")),
        *("tests/routes/stores/test_memory.py", "tests/routes/stores/test_documents.py"),
        *("tests/messaging/deduplication/test_memory.py", "tests/messaging/deduplication/test_once.py"),
    ),
    beside=("opentelemetry-sdk", "pyyaml"),
)

EXTRAS: Mapping[str, Row] = {
    "fastapi": Row(
        "fastapi",
        ("tenancy.http.fastapi",),
        ("fastapi",),
        ("tests/http/test_fastapi.py",),
        (*_HTTP, *opentelemetry("fastapi")),
    ),
    "flask": Row(
        "flask",
        ("tenancy.http.flask",),
        ("flask",),
        ("tests/http/test_flask.py",),
        (*_WSGI, "asgiref", *opentelemetry("flask")),
        period=("werkzeug<3",),
    ),
    "django": Row(
        "django",
        ("tenancy.http.django",),
        ("django",),
        ("tests/http/test_django.py",),
        (*_WSGI, *opentelemetry("asgi", "django", "wsgi")),
    ),
    "aiohttp": Row(
        "aiohttp",
        ("tenancy.http.aiohttp_client", "tenancy.http.aiohttp_server"),
        ("aiohttp", "aiohttp.web"),
        ("tests/http/test_aiohttp_client.py", "tests/http/test_aiohttp_server.py"),
        (*_HTTP, *opentelemetry("aiohttp-client", "aiohttp-server")),
        period=("yarl<1.10",),
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
        "urllib3",
        ("tenancy.http.urllib3",),
        ("urllib3",),
        ("tests/http/test_urllib3.py",),
        (*_HTTP, "requests", *opentelemetry("urllib3")),
    ),
    "grpc": Row(
        "grpc",
        ("tenancy.grpc",),
        ("grpc",),
        tuple(f"tests/grpc/test_{name}.py" for name in ("aio_client", "aio_server", "client", "instrument", "server", "target")),
        opentelemetry("grpc"),
    ),
    "kafka": Row(
        "confluent_kafka",
        (
            "tenancy.messaging.confluent_kafka",
            "tenancy.messaging.kafka.broker",
            "tenancy.messaging.kafka.confluent",
            "tenancy.messaging.kafka.confluent_assignment",
            "tenancy.messaging.kafka.confluent_choice",
            "tenancy.messaging.kafka.confluent_guard",
            "tenancy.messaging.kafka.confluent_offsets",
            "tenancy.messaging.kafka.confluent_transactions",
            "tenancy.messaging.kafka.gap",
        ),
        tests=("tests/messaging/test_confluent_kafka.py",),
        beside=opentelemetry("confluent-kafka"),
    ),
    "aiokafka": Row(
        "aiokafka",
        (
            "tenancy.messaging.aiokafka",
            "tenancy.messaging.kafka.aio",
            "tenancy.messaging.kafka.aio_guard",
            "tenancy.messaging.kafka.aio_membership",
            "tenancy.messaging.kafka.aio_offsets",
            "tenancy.messaging.kafka.aio_reception",
        ),
        tests=("tests/messaging/kafka/test_aiokafka.py",),
    ),
    "faststream": Row("faststream", ("tenancy.messaging.faststream",), beside=("aiokafka",)),
    "rabbitmq": Row(
        "aio_pika",
        (
            "tenancy.messaging.aio_pika",
            *(
                f"tenancy.messaging.rabbitmq.{name}"
                for name in ("aio", "aio_forward", "aio_frames", "aio_get", "aio_source", "broker", "session")
            ),
        ),
        tests=("tests/messaging/test_aio_pika.py",),
        beside=opentelemetry("aio-pika"),
    ),
    "celery": Row(
        "celery",
        (
            "tenancy.messaging.celery",
            "tenancy.messaging.rabbitmq.celery_begin",
            "tenancy.messaging.rabbitmq.celery_forward",
            "tenancy.messaging.rabbitmq.celery_selection",
            "tenancy.messaging.rabbitmq.celery_source",
        ),
        tests=("tests/messaging/test_celery.py",),
    ),
    "pika": Row(
        "pika",
        (
            "tenancy.messaging.pika",
            "tenancy.messaging.rabbitmq.pika_blocking",
            "tenancy.messaging.rabbitmq.pika_callbacks",
            "tenancy.messaging.rabbitmq.pika_properties",
            "tenancy.messaging.rabbitmq.pika_wire",
        ),
        tests=("tests/messaging/test_pika.py",),
        beside=opentelemetry("pika"),
    ),
    "sqlalchemy": Row(
        "sqlalchemy",
        ("tenancy.data.databases", "tenancy.data.sqlalchemy", "tenancy.messaging.deduplication.sql", "tenancy.routes.stores.sql"),
        tests=(
            *(f"tests/data/test_row_partition{name}.py" for name in ("", "_baseline", "_refusals", "_text")),
            *(f"tests/data/databases/test_{name}.py" for name in ("command", "sqlite")),
        ),
        beside=("aiosqlite", "greenlet", "opentelemetry-sdk"),
    ),
    "postgresql": Row(
        "psycopg",
        ("tenancy.data.databases.postgresql", "tenancy.data.postgresql", "tenancy.routes.stores._postgresql"),
        tests=("tests/routes/stores/test_sql.py", "tests/messaging/deduplication/test_sql.py"),
        beside=("aiosqlite", "greenlet"),
    ),
    "mysql": Row("pymysql", ("tenancy.data.databases.mysql",)),
    "redis": Row(
        "redis",
        ("tenancy.data.redis", "tenancy.data._redis_hooks", "tenancy.messaging.deduplication.redis", "tenancy.routes.stores.redis"),
        tests=(
            *("tests/routes/stores/test_redis.py", "tests/messaging/deduplication/test_redis.py"),
            *(f"tests/data/redis_partition/test_{name}.py" for name in ("commands", "partition", "pubsub", "read_through")),
        ),
        beside=("greenlet", "sqlalchemy>=2.0.25"),  # of the folder above
    ),
    "yaml": Row("yaml", tests=("tests/routes/test_live.py",), beside=("opentelemetry-sdk",)),
    "testing": Row(
        "pytest",
        ("pytest_request_tenancy",),
        tests=("tests/packaging/plugin",),
        options=("-c", "tests/packaging/plugin/pytest.ini"),  # the project's own options need a newer pytest than the plugin
    ),
    "cli": Row("rich", ("tenancy.cli.root",)),
}

#: Tests of several extras side by side.
TOGETHER = (
    *("tests/cli", "tests/grpc", "tests/http", "tests/messaging", "tests/observe", "tests/routes", "tests/testing"),
    *("tests/test_imports.py", "tests/test_instrumentation.py"),
)

#: Extras that are none of the table's: all of it, and OpenTelemetry's own instrumentations, which no module of ours needs.
NOT_ALONE = {"all", "opentelemetry"}
