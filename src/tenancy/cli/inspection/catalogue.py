"""
The client libraries and frameworks that matter, and what becomes of a routing key in each where nobody, or OpenTelemetry alone, carries it.

What OpenTelemetry's instrumentations do with baggage is not in their documentation; each statement here was tried, or read in their source.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["LIBRARIES", "Entry"]

Role = Literal["server", "client", "messages", "data", "threads"]

_NOT_CHECKED = (
    "the key is current, but whether it is accepted here (TENANCY_ACCEPT) is not asked, and a malformed one is not refused"
)
_EVERYWHERE = "the key goes to every host, the targets of redirects included: TENANCY_TRUSTED_HOSTS is not asked"
_NO_KEY_IN = "a request that comes in has no key in its handler"
_NO_KEY_OUT = "requests leave without the key"


@dataclass(frozen=True)
class Entry:
    """
    One library.

    Args:
        name: Its name, as for `tenancy.instrument` where that knows it.
        package: Its top-level package.
        distributions: The distributions that bring it; none: the standard library.
        role: What it is for.
        adapters: Its names for `tenancy.instrument`.
        by_hand: Our modules that a service uses in its code, the first that exists.
        instrumentors: OpenTelemetry's names of it (entry points of ``opentelemetry_instrumentor``).
        probes: The attributes that OpenTelemetry replaces, as ``module:attribute``.
        module: The module whose being imported shows that it is used; default *package*.
        beside: A module beside which its being imported says nothing.
        ambient: Whether it is imported by others all the time, so that its being imported says nothing.
        marked: Whether OpenTelemetry leaves a mark on each application that it instruments.
        uncovered: What is lost where nobody carries the key.
        opentelemetry: What is lost where OpenTelemetry does, and this library does not.
        do: What to do where `tenancy.instrument` does not know it.
    """

    name: str
    package: str
    distributions: tuple[str, ...]
    role: Role
    adapters: tuple[str, ...] = ()
    by_hand: tuple[str, ...] = ()
    instrumentors: tuple[str, ...] = ()
    probes: tuple[str, ...] = ()
    module: str | None = None
    beside: str | None = None
    ambient: bool = False
    marked: bool = False
    uncovered: str = ""
    opentelemetry: str | None = None
    do: str = ""


_MIDDLEWARE = "app = TenancyMiddleware(app), of tenancy.http.wsgi or tenancy.http.asgi"

LIBRARIES: tuple[Entry, ...] = (
    Entry(
        "fastapi",
        "fastapi",
        ("fastapi",),
        "server",
        by_hand=("tenancy.http.asgi",),
        instrumentors=("fastapi",),
        marked=True,
        probes=("fastapi:FastAPI",),
        uncovered=_NO_KEY_IN,
        opentelemetry=_NOT_CHECKED,
        do="app.add_middleware(TenancyMiddleware), of tenancy.http.fastapi",
    ),
    Entry(
        "starlette",
        "starlette",
        ("starlette",),
        "server",
        by_hand=("tenancy.http.asgi",),
        instrumentors=("starlette",),
        marked=True,
        probes=("starlette.applications:Starlette",),
        uncovered=_NO_KEY_IN,
        opentelemetry=_NOT_CHECKED,
        do="app.add_middleware(TenancyMiddleware), of tenancy.http.asgi",
    ),
    Entry(
        "flask",
        "flask",
        ("flask",),
        "server",
        by_hand=("tenancy.http.flask", "tenancy.http.wsgi"),
        instrumentors=("flask",),
        marked=True,
        probes=("flask:Flask",),
        uncovered=_NO_KEY_IN,
        opentelemetry=f"{_NOT_CHECKED}; a streamed response has no key while it is made",
        do="app.wsgi_app = TenancyMiddleware(app.wsgi_app), of tenancy.http.wsgi",
    ),
    Entry(
        "django",
        "django",
        ("django",),
        "server",
        by_hand=("tenancy.http.django",),
        instrumentors=("django",),
        marked=True,
        uncovered=_NO_KEY_IN,
        opentelemetry=f"{_NOT_CHECKED}; a StreamingHttpResponse has no key while it is made",
        do="'tenancy.http.django.TenancyMiddleware' in the first place of MIDDLEWARE",
    ),
    Entry(
        "aiohttp server",
        "aiohttp",
        ("aiohttp",),
        "server",
        adapters=("aiohttp.web",),
        by_hand=("tenancy.http.aiohttp_server",),
        instrumentors=("aiohttp-server",),
        module="aiohttp.web",
        probes=("aiohttp.web:Application",),
        uncovered=_NO_KEY_IN,
        opentelemetry="handlers have the span, but not the key: the baggage is not made current",
        do="setup(app), of tenancy.http.aiohttp_server",
    ),
    Entry(
        "tornado",
        "tornado",
        ("tornado",),
        "server",
        instrumentors=("tornado",),
        uncovered=f"{_NO_KEY_IN}, and {_NO_KEY_OUT}",
        opentelemetry=f"{_NOT_CHECKED}; outbound, {_EVERYWHERE}",
        do="with tenancy.scope(self.request): in the handler, headers=tenancy.inject(headers) on the way out",
    ),
    Entry(
        "falcon",
        "falcon",
        ("falcon",),
        "server",
        instrumentors=("falcon",),
        uncovered=_NO_KEY_IN,
        opentelemetry=_NOT_CHECKED,
        do=_MIDDLEWARE,
    ),
    Entry(
        "grpc",
        "grpc",
        ("grpcio",),
        "client",
        instrumentors=("grpc_client", "grpc_server", "grpc_aio_client", "grpc_aio_server"),
        probes=("grpc:insecure_channel", "grpc:server"),
        uncovered="calls leave without the key, and servers do not take it in",
        opentelemetry=f"{_EVERYWHERE}; a server does not ask whether a key is accepted; the first item of a client's response stream decides "
        "which key is sent",
    ),
    Entry(
        "requests",
        "requests",
        ("requests",),
        "client",
        by_hand=("tenancy.http.requests",),
        instrumentors=("requests",),
        probes=("requests.sessions:Session.send",),
        uncovered=_NO_KEY_OUT,
        opentelemetry=_EVERYWHERE,
        do="headers=tenancy.inject(headers)",
    ),
    Entry(
        "httpx",
        "httpx",
        ("httpx",),
        "client",
        by_hand=("tenancy.http.httpx",),
        instrumentors=("httpx",),
        probes=("httpx:HTTPTransport.handle_request",),
        uncovered=_NO_KEY_OUT,
        opentelemetry=f"{_EVERYWHERE}; a custom transport sends none",
        do="headers=tenancy.inject(headers)",
    ),
    Entry(
        "aiohttp client",
        "aiohttp",
        ("aiohttp",),
        "client",
        adapters=("aiohttp",),
        beside="aiohttp.web",  # a server brings the client with it
        instrumentors=("aiohttp-client",),
        probes=("aiohttp:ClientSession.__init__",),
        uncovered=_NO_KEY_OUT,
        opentelemetry=_EVERYWHERE,
        do="headers=tenancy.inject(headers)",
    ),
    Entry(
        "urllib3",
        "urllib3",
        ("urllib3",),
        "client",
        instrumentors=("urllib3",),
        probes=("urllib3.connectionpool:HTTPConnectionPool.urlopen",),
        ambient=True,
        uncovered=f"{_NO_KEY_OUT}, where it is used directly",
        opentelemetry=f"{_EVERYWHERE}; a `Baggage` header of your own goes out beside OpenTelemetry's",
        do="headers=tenancy.inject(headers)",
    ),
    Entry(
        "urllib",
        "urllib",
        (),
        "client",
        instrumentors=("urllib",),
        module="urllib.request",
        probes=("urllib.request:OpenerDirector.open",),
        ambient=True,
        uncovered=f"{_NO_KEY_OUT}, where it is used directly",
        opentelemetry=_EVERYWHERE,
        do="Request(url, headers=tenancy.inject(headers))",
    ),
    Entry(
        "confluent_kafka",
        "confluent_kafka",
        ("confluent-kafka",),
        "messages",
        by_hand=("tenancy.messaging.confluent_kafka",),
        instrumentors=("confluent_kafka",),
        probes=("confluent_kafka:Producer", "confluent_kafka:Consumer"),
        uncovered="messages leave without the key, and a consumer takes everybody's",
        opentelemetry="messages leave with the key, but poll() and consume() do not make it current, and a consumer takes everybody's",
        do="@consumer() on the handler and produce(..., headers=inject()), both of tenancy.messaging.confluent_kafka",
    ),
    Entry(
        "aiokafka",
        "aiokafka",
        ("aiokafka",),
        "messages",
        instrumentors=("aiokafka",),
        uncovered="messages leave without the key, and handlers do not have it",
        opentelemetry="send() carries the key and send_batch() does not; getone(), getmany() and `async for` do not make it current",
        do="with tenancy.scope(record): around the handling; headers=tenancy.inject([], binary=True) to send",
    ),
    Entry(
        "kafka",
        "kafka",
        ("kafka-python", "kafka-python-ng"),
        "messages",
        instrumentors=("kafka",),
        uncovered="messages leave without the key, and handlers do not have it",
        opentelemetry="send() carries the key; iteration does not make it current, and poll() is not instrumented at all",
        do="with tenancy.scope(record): around the handling; headers=tenancy.inject([], binary=True) to send",
    ),
    Entry(
        "aio_pika",
        "aio_pika",
        ("aio-pika",),
        "messages",
        by_hand=("tenancy.messaging.aio_pika",),
        instrumentors=("aio-pika",),
        uncovered="messages leave without the key, and a consumer takes everybody's",
        opentelemetry="publish() and the callback of queue.consume() have the key, queue.iterator() and queue.get() do not; a consumer takes "
        "everybody's messages",
        do="@consumer() on the callback and publish(inject(message), ...), both of tenancy.messaging.aio_pika",
    ),
    Entry(
        "pika",
        "pika",
        ("pika",),
        "messages",
        by_hand=("tenancy.messaging.pika",),
        instrumentors=("pika",),
        uncovered="messages leave without the key, and a consumer takes everybody's",
        opentelemetry="callbacks of basic_consume() have the key, channel.consume() and basic_get() do not; a message without headers takes "
        "over what is current, properties that are used again keep an old key, and a consumer takes everybody's messages",
        do="SelectiveChannel(connection, queue) to consume and with_key(channel) to publish, both of tenancy.messaging.pika",
    ),
    Entry(
        "celery",
        "celery",
        ("celery",),
        "messages",
        by_hand=("tenancy.messaging.celery",),
        instrumentors=("celery",),
        uncovered="tasks are sent and run without the key, and a worker takes everybody's",
        opentelemetry="tasks have the key, with use_span_links=True they do not; a worker takes everybody's tasks",
        do="setup(app), of tenancy.messaging.celery, where the application is made",
    ),
    Entry(
        "boto3",
        "boto3",
        ("boto3",),
        "messages",
        instrumentors=("boto3",),
        ambient=True,
        uncovered="SQS messages leave without the key, and handlers do not have it",
        opentelemetry="SQS messages carry the key unless they have ten attributes already; handlers do not have it",
        do="MessageAttributes=tenancy.inject(attributes) to send; with tenancy.scope(message['MessageAttributes']): around the handling",
    ),
    Entry(
        "sqlalchemy",
        "sqlalchemy",
        ("sqlalchemy",),
        "data",
        by_hand=("tenancy.data.databases", "tenancy.data.sqlalchemy"),
        instrumentors=("sqlalchemy",),
        uncovered="the rows of all keys and of the baseline lie together",
        opentelemetry="the rows of all keys and of the baseline lie together",
        do="RowPartition(column=..., baseline=...).install(engine), of tenancy.data.sqlalchemy; or DatabasePerKey(provider).install(engine), "
        "of tenancy.data.databases",
    ),
    Entry(
        "redis",
        "redis",
        ("redis",),
        "data",
        by_hand=("tenancy.data.redis",),
        instrumentors=("redis",),
        uncovered="the entries of all keys and of the baseline lie together",
        opentelemetry="the entries of all keys and of the baseline lie together",
        do="RedisPartition(base).install(client), of tenancy.data.redis",
    ),
    Entry(
        "concurrent.futures",
        "concurrent",
        (),
        "threads",
        instrumentors=("threading",),
        module="concurrent.futures",
        ambient=True,
        uncovered="work handed to a pool, or to loop.run_in_executor, runs without the key",
        opentelemetry="work handed to a pool of processes runs without the key",
        do="pool.submit(tenancy.scope(tenancy.routing_key())(work))",
    ),
)
