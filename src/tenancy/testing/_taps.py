"""
Where hops leave: the innermost Python function of each client, beneath all instrumentation, OpenTelemetry's and ours.
"""

from __future__ import annotations

import functools
import http.client
import inspect
import sys
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from .._patches import Patches
from ._imports import Arrivals

__all__ = ["Sighting", "Taps"]


class Sighting(NamedTuple):
    """
    One hop as its client was about to send it.

    Args:
        client: Whose function or connection it was, such as ``http.client``.
        action: What is asked for, such as ``GET http://orders/stock``.
        destination: The host; for a message its exchange or topic.
        headers: Pairs of name and value, text or bytes.
        hosts: The hosts that get to see it; None where they cannot be told, and empty where it does not leave this machine or goes to a
            broker.
    """

    client: str
    action: str
    destination: str
    headers: Iterable[Any]
    hosts: tuple[str, ...] | None


class Taps:
    """
    Tells of every hop of this process, from when it is made until `close`.

    Args:
        saw: Is called with each sighting, in the context in which it is sent.
        failed: Is called with the error where a hop could not be understood; the hop goes out all the same.
    """

    def __init__(self, saw: Callable[[Sighting], None], failed: Callable[[Exception], None]) -> None:
        self._saw = saw
        self._failed = failed
        self.patches = Patches()
        #: Clients whose hops cannot be seen, with the reason.
        self.unseen: dict[str, Exception] = {}
        self._open = True
        taps = {
            "http.client": self._tap_http_client,
            "httpcore": self._tap_httpcore,
            "httpcore2": self._tap_httpcore,
            "aiohttp": self._tap_aiohttp,
            "grpc._channel": self._tap_grpc,
            "grpc.aio._call": self._tap_grpc_aio,
            "aiormq": self._tap_aiormq,
        }
        self._arrivals = Arrivals({name: functools.partial(self._tap, name, tap) for name, tap in taps.items()})

    def close(self) -> None:
        """
        Take everything out again. Where somebody has wrapped one of ours meanwhile it stays beneath, and does nothing.
        """
        self._open = False
        self._arrivals.close()
        self.patches.undo()

    def see(self, look: Callable[[], Sighting | None]) -> None:
        """
        Tell of a hop, without ever getting in its way.
        """
        if not self._open:
            return
        try:
            sighting = look()
            if sighting is not None:
                self._saw(sighting)
        except Exception as error:  # noqa: BLE001 - the hop goes out all the same; the recorder reports this when it is asked
            self._failed(error)

    def _tap(self, name: str, tap: Callable[[Any], None], module: Any) -> None:
        try:
            tap(module)
        except Exception as error:  # noqa: BLE001 - a version that is built differently; whoever imports it now is not to meet this
            self.unseen[name] = error

    def _before(self, owner: Any, name: str, look: Callable[..., Sighting | None]) -> None:
        """
        Look at the arguments of a function before it is called.
        """

        def wrapper(original: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(original)
            def call(*args: Any, **kwargs: Any) -> Any:
                self.see(lambda: look(*args, **kwargs))
                return original(*args, **kwargs)

            @functools.wraps(original)
            async def call_async(*args: Any, **kwargs: Any) -> Any:
                self.see(lambda: look(*args, **kwargs))
                return await original(*args, **kwargs)

            return call_async if inspect.iscoroutinefunction(original) else call

        self.patches.wrap(owner, name, wrapper)

    def _tap_http_client(self, client: Any) -> None:
        # requests, urllib3 and urllib end here.
        self._before(client.HTTPConnection, "endheaders", _http_client)

    def _tap_httpcore(self, httpcore: Any) -> None:
        # httpx ends here, and httpx2 in httpcore2.
        look = functools.partial(_httpcore, httpcore.__name__)
        self._before(httpcore.ConnectionPool, "handle_request", look)
        self._before(httpcore.AsyncConnectionPool, "handle_async_request", look)

    def _tap_aiohttp(self, aiohttp: Any) -> None:
        # Not ClientRequest.send, where our own adapter stands, which writes headers further in.
        self._before(aiohttp.http_writer.StreamWriter, "write_headers", functools.partial(_aiohttp, aiohttp.ClientRequest))

    def _tap_grpc(self, channel: Any) -> None:
        for kind in ("UnaryUnary", "UnaryStream", "SingleThreadedUnaryStream", "StreamUnary", "StreamStream"):
            multicallable = getattr(channel, f"_{kind}MultiCallable")
            for name in ("__call__", "with_call", "future"):
                if name in vars(multicallable):
                    self._before(multicallable, name, _grpc)

    def _tap_grpc_aio(self, call: Any) -> None:
        for kind in ("UnaryUnary", "UnaryStream", "StreamUnary", "StreamStream"):
            self._before(getattr(call, f"{kind}Call"), "__init__", _grpc_aio)

    def _tap_aiormq(self, aiormq: Any) -> None:
        self._before(aiormq.Channel, "basic_publish", _aiormq)


def _http_client(connection: Any, *_: Any, **__: Any) -> Sighting | None:
    if not connection._buffer:
        return None  # nothing was begun; http.client is about to say so
    request, *lines = (line.decode("latin-1") for line in connection._buffer)
    method, _, rest = request.partition(" ")
    target = rest.rpartition(" ")[0] or rest
    headers = [(name, value.strip()) for name, colon, value in (line.partition(":") for line in lines) if colon]
    if target.startswith("/") or "://" not in target:
        host = connection._tunnel_host or connection.host
        scheme = "https" if connection.default_port == http.client.HTTPS_PORT else "http"
        port = (connection._tunnel_port if connection._tunnel_host else connection.port) or connection.default_port
        target = f"{scheme}://{_bracketed(host)}:{port}{target}"
    else:  # in absolute form, to a proxy
        host = urlsplit(target).hostname
    beneath_urllib3 = any(kind.__module__ == "urllib3.connection" for kind in type(connection).__mro__)
    return _request("urllib3" if beneath_urllib3 else "http.client", method, target, host, headers)


def _httpcore(client: str, pool: Any, request: Any) -> Sighting | None:  # noqa: ARG001 - the signature of what it stands before
    url = request.url
    host = url.host.decode("ascii", "replace")
    port = "" if url.port is None else f":{url.port}"
    target = f"{url.scheme.decode()}://{_bracketed(host)}{port}{url.target.decode('latin-1')}"
    return _request(client, request.method.decode(), target, host, request.headers)


def _aiohttp(kind: type, writer: Any, status_line: str, headers: Any) -> Sighting | None:  # noqa: ARG001
    method, _, rest = status_line.partition(" ")
    # A server's response is none, and neither is asking a proxy for a tunnel.
    if status_line.startswith("HTTP/") or method == "CONNECT":
        return None
    pairs = list(headers.items())
    request = _caller(kind)
    if request is None:
        host = headers.get("host", "")
        return _request("aiohttp", method, f"http://{host}{rest.partition(' ')[0]}", host, pairs)
    return _request("aiohttp", method, str(request.url), request.url.raw_host, pairs)


def _caller(kind: type) -> Any:
    """
    The object of a class in whose method we are, or None: aiohttp's writer does not know for whom it writes.
    """
    frame = sys._getframe(1)
    while frame.f_back is not None:
        frame = frame.f_back
        owner = frame.f_locals.get("self")
        if isinstance(owner, kind):
            return owner
    return None


def _grpc(multicallable: Any, request: Any, timeout: Any = None, metadata: Any = None, *_: Any, **__: Any) -> Sighting:  # noqa: ARG001
    return _call("grpc", multicallable._method, multicallable._channel.target(), metadata)


def _grpc_aio(
    call: Any,  # noqa: ARG001
    request: Any,  # noqa: ARG001
    deadline: Any,  # noqa: ARG001
    metadata: Any,
    credentials: Any,  # noqa: ARG001
    wait_for_ready: Any,  # noqa: ARG001
    channel: Any,
    method: Any,
    *_: Any,
    **__: Any,
) -> Sighting:
    target = getattr(channel, "target", None)
    if target is None:  # older versions do not tell where a channel leads; whether the key may go there cannot be judged
        return Sighting("grpc.aio", f"call {_text(method)}", "", list(metadata or ()), ())
    return _call("grpc.aio", method, target, metadata)


def _call(client: str, method: Any, target: Any, metadata: Any) -> Sighting:
    from ..grpc.target import hosts_of

    # grpc itself puts the resolver before a plain address.
    name, place = _text(method), _text(target).removeprefix("dns:///")
    hosts = hosts_of(place)
    return Sighting(client, f"call {place} {name}", (hosts or (place,))[0], list(metadata or ()), hosts)


def _aiormq(
    channel: Any,  # noqa: ARG001
    body: Any,  # noqa: ARG001
    *,
    exchange: str = "",
    routing_key: str = "",
    properties: Any = None,
    **_: Any,
) -> Sighting:
    headers = list((getattr(properties, "headers", None) or {}).items())
    return Sighting(
        "aiormq", f"publish {routing_key} to {exchange or 'the default exchange'}", exchange or routing_key, headers, ()
    )


def _request(client: str, method: str, target: str, host: str | None, headers: Iterable[Any]) -> Sighting:
    return Sighting(client, f"{method} {target}", host or "", list(headers), None if host is None else (host,))


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
