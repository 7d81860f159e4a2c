from __future__ import annotations

import importlib
import sys
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

import tenancy
from tenancy.grpc import instrument, uninstrument

protoc = pytest.importorskip("grpc_tools.protoc")

SCHEMA = """
syntax = "proto3";
package tenancy_test;

message Order { string name = 1; }
message Answer { string key = 1; }

service Orders {
  rpc Get (Order) returns (Answer);
  rpc Watch (Order) returns (stream Answer);
  rpc Put (stream Order) returns (Answer);
  rpc Chat (stream Order) returns (stream Answer);
}
"""


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Any]]:
    folder: Path = tmp_path_factory.mktemp("generated")
    (folder / "tenancy_test_orders.proto").write_text(SCHEMA)
    arguments = [f"-I{folder}", f"--python_out={folder}", f"--grpc_python_out={folder}", "tenancy_test_orders.proto"]
    assert protoc.main(["protoc", *arguments]) == 0
    sys.path.insert(0, str(folder))
    try:
        yield importlib.import_module("tenancy_test_orders_pb2"), importlib.import_module("tenancy_test_orders_pb2_grpc")
    finally:
        sys.path.remove(str(folder))


@pytest.fixture(autouse=True)
def _instrumented() -> Iterator[None]:
    instrument()
    yield
    uninstrument()


def test_a_generated_service(generated: tuple[Any, Any]) -> None:
    """Stubs and servicers that protoc made carry the key on every kind of call."""
    messages, services = generated

    class Servicer(services.OrdersServicer):  # type: ignore[misc]
        def Get(self, request: Any, context: Any) -> Any:
            return messages.Answer(key=tenancy.routing_key())

        def Watch(self, request: Any, context: Any) -> Iterator[Any]:
            for _ in range(2):
                yield messages.Answer(key=tenancy.routing_key())

        def Put(self, request_iterator: Any, context: Any) -> Any:
            return messages.Answer(key=f"{len(list(request_iterator))} {tenancy.routing_key()}")

        def Chat(self, request_iterator: Any, context: Any) -> Iterator[Any]:
            for request in request_iterator:
                yield messages.Answer(key=f"{request.name} {tenancy.routing_key()}")

    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool)
        services.add_OrdersServicer_to_server(Servicer(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, tenancy.scope("pr-42"):
            stub = services.OrdersStub(channel)
            order = messages.Order(name="tea")
            assert stub.Get(order).key == "pr-42"
            assert [answer.key for answer in stub.Watch(order)] == ["pr-42"] * 2
            assert stub.Put(iter([order, order])).key == "2 pr-42"
            assert [answer.key for answer in stub.Chat(iter([order]))] == ["tea pr-42"]
        server.stop(0).wait(5)


async def test_a_generated_service_in_asyncio(generated: tuple[Any, Any]) -> None:
    """The same with grpc.aio."""
    messages, services = generated

    class Servicer(services.OrdersServicer):  # type: ignore[misc]
        async def Get(self, request: Any, context: Any) -> Any:
            return messages.Answer(key=tenancy.routing_key())

        async def Watch(self, request: Any, context: Any) -> AsyncIterator[Any]:
            for _ in range(2):
                yield messages.Answer(key=tenancy.routing_key())

        async def Put(self, request_iterator: Any, context: Any) -> Any:
            return messages.Answer(key=f"{len([request async for request in request_iterator])} {tenancy.routing_key()}")

        async def Chat(self, request_iterator: Any, context: Any) -> None:
            async for request in request_iterator:
                await context.write(messages.Answer(key=f"{request.name} {tenancy.routing_key()}"))

    server = grpc.aio.server()
    services.add_OrdersServicer_to_server(Servicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        with tenancy.scope("pr-42"):
            stub = services.OrdersStub(channel)
            order = messages.Order(name="tea")
            assert (await stub.Get(order)).key == "pr-42"
            assert [answer.key async for answer in stub.Watch(order)] == ["pr-42"] * 2
            assert (await stub.Put(iter([order, order]))).key == "2 pr-42"
            assert [answer.key async for answer in stub.Chat(iter([order]))] == ["tea pr-42"]
    await server.stop(0)
