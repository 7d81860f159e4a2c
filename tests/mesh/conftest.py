from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from tenancy.mesh import Baseline, Endpoint, EnvoyTarget, Fork, Listener, render
from tests.mesh import upstreams
from tests.services import envoy
from tests.services.base import Unavailable, flag, free_port


@dataclass(frozen=True)
class Mesh:
    """
    One Envoy before a shop of real services. ``web`` has forks under pr-42 and pr-7; ``chat`` (WebSockets) and ``stock`` (gRPC) under
    pr-42; ``hasty`` has short timeouts. Nothing listens where pr-down leads.
    """

    web: int
    edge: int
    partly_trusting_edge: int
    hasty: int
    chat: int
    chat_edge: int
    stock: int
    stock_edge: int
    web_servers: dict[str, upstreams.EchoServer]
    envoy: envoy.Envoy


@pytest.fixture(scope="session")
def envoy_binary() -> str:
    try:
        return envoy.binary()
    except Unavailable as error:
        if flag("TENANCY_REQUIRE_SERVICES"):
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def mesh(envoy_binary: str) -> Iterator[Mesh]:
    with ExitStack() as stack:
        web = {name: stack.enter_context(upstreams.http(name)) for name in ("baseline", "pr-42", "pr-7")}
        hasty = stack.enter_context(upstreams.http("baseline"))
        chat = {name: stack.enter_context(upstreams.websocket(name)) for name in ("baseline", "pr-42")}
        stock = {name: stack.enter_context(upstreams.grpc_server(name)) for name in ("baseline", "pr-42")}

        def at(port: int) -> Endpoint:
            return Endpoint("127.0.0.1", port)

        baselines = [
            Baseline("shop/web", at(web["baseline"].server_port)),
            Baseline("shop/hasty", at(hasty.server_port), timeout=0.4, idle_timeout=1.0),
            Baseline("shop/chat", Endpoint("localhost", chat["baseline"])),
            Baseline("shop/stock", at(stock["baseline"]), "grpc"),
        ]
        forks = [Fork("shop/web", key, key, at(web[key].server_port)) for key in ("pr-42", "pr-7")]
        forks += [Fork("shop/chat", "pr-42", "pr-42", at(chat["pr-42"])), Fork("shop/stock", "pr-42", "pr-42", at(stock["pr-42"]))]
        *ports, nowhere = (free_port() for _ in range(9))
        forks.append(Fork("shop/web", "pr-down", "pr-down", at(nowhere)))
        listeners = [
            Listener("shop/web", at(ports[0])),
            Listener("shop/web", at(ports[1]), edge=True),
            Listener("shop/web", at(ports[2]), edge=True, trusted=("127.0.0.2/32", "::1/128")),
            Listener("shop/hasty", at(ports[3])),
            Listener("shop/chat", at(ports[4])),
            Listener("shop/chat", at(ports[5]), edge=True),
            Listener("shop/stock", at(ports[6])),
            Listener("shop/stock", at(ports[7]), edge=True),
        ]
        (document,) = render(baselines, forks, EnvoyTarget(listeners))
        running = stack.enter_context(envoy.running(document.content))
        yield Mesh(*ports, web_servers=web, envoy=running)
