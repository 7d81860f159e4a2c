"""One service on all four transports, HTTP, gRPC, Kafka and RabbitMQ, and the rows that it writes on the way."""

import asyncio
import json
import os
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import aio_pika
import confluent_kafka
import fastapi
import grpc
import httpx
import requests
import sqlalchemy
import uvicorn
from aio_pika.abc import AbstractIncomingMessage

import tenancy
from tenancy.data.sqlalchemy import RowPartition
from tenancy.http.fastapi import TenancyMiddleware
from tenancy.messaging import aio_pika as rabbitmq
from tenancy.messaging import confluent_kafka as kafka

tenancy.instrument()

NAME = os.environ["NAME"]  # of the topic, the exchange, the queue and the table
NEXT_URL = os.environ["PEER_URL"] + "/next/"
KAFKA = {"bootstrap.servers": os.environ["KAFKA_BOOTSTRAP_SERVERS"]}
ROLE = os.environ.get("TENANCY_SANDBOX") or os.environ["TENANCY_ROLE"]

engine = sqlalchemy.create_engine(os.environ["DATABASE_URL"])
RowPartition(column="tenant", value=str, baseline="baseline").install(engine)
metadata = sqlalchemy.MetaData()
columns = [sqlalchemy.Column(name, sqlalchemy.Text, nullable=False) for name in ("id", "step", "tenant")]
orders = sqlalchemy.Table(NAME, metadata, *columns)
metadata.create_all(engine)

producer = confluent_kafka.Producer(KAFKA)
stopping = threading.Event()


def record(order: str, step: str) -> None:
    """Say who did this step, and under which key."""
    with open(os.environ["STEPS_FILE"], "a") as steps:
        steps.write(json.dumps({"id": order, "step": step, "role": ROLE, "key": tenancy.routing_key()}) + "\n")


def write_row(order: str, step: str) -> None:
    with engine.begin() as connection:
        connection.execute(orders.insert().values(id=order, step=step))
    record(order, step)


@asynccontextmanager
async def lifespan(app: fastapi.FastAPI) -> AsyncIterator[None]:
    methods = {"Check": grpc.unary_unary_rpc_method_handler(check)}
    server = grpc.server(ThreadPoolExecutor(4), handlers=[grpc.method_handlers_generic_handler("shop.Readme", methods)])
    app.state.grpc = grpc.insecure_channel(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
    server.start()
    async with await aio_pika.connect_robust(os.environ["AMQP_URL"]) as connection:
        channel = await connection.channel()
        app.state.exchange = await channel.declare_exchange(NAME, aio_pika.ExchangeType.TOPIC)
        await rabbitmq.synced(on_fulfilled)
        queue = await rabbitmq.declare_queue(channel, NAME, bindings=[(NAME, "order.*")])
        await queue.consume(on_fulfilled)
        reader = asyncio.create_task(asyncio.to_thread(read_orders, asyncio.get_running_loop()))
        yield
        stopping.set()
        await reader
    server.stop(1).wait()
    producer.flush(10)


app = fastapi.FastAPI(lifespan=lifespan)
app.add_middleware(TenancyMiddleware)


@app.get("/")
def whose() -> str:
    return tenancy.routing_key() or "the baseline's"


@app.post("/start/{order}")
def start(order: str) -> None:
    record(order, "start")
    app.state.grpc.unary_unary("/shop.Readme/Check")(order.encode())
    httpx.post(NEXT_URL + order, params={"step": "httpx"}, timeout=60).raise_for_status()
    requests.post(NEXT_URL + order, params={"step": "requests"}, timeout=60).raise_for_status()
    write_row(order, "ordered")
    producer.produce(NAME, order.encode(), headers=kafka.inject())
    producer.poll(0)


@app.post("/next/{order}")
def follow(order: str, step: str) -> None:
    record(order, step)


def check(request: bytes, context: grpc.ServicerContext) -> bytes:
    record(request.decode(), "grpc")
    return request


@kafka.consumer()
def on_order(message: confluent_kafka.Message, loop: asyncio.AbstractEventLoop) -> None:
    record(message.value().decode(), "kafka")
    fulfilled = rabbitmq.inject(aio_pika.Message(message.value()))
    asyncio.run_coroutine_threadsafe(app.state.exchange.publish(fulfilled, "order.fulfilled"), loop).result(60)


def read_orders(loop: asyncio.AbstractEventLoop) -> None:
    kafka.wait_synced(on_order)
    reader = confluent_kafka.Consumer(
        KAFKA | {"group.id": kafka.group_id(NAME), "auto.offset.reset": "earliest", "enable.auto.commit": False}
    )
    reader.subscribe([NAME])
    while not stopping.is_set():
        message = reader.poll(1.0)
        if message is None:
            continue
        if message.error():
            raise confluent_kafka.KafkaException(message.error())
        on_order(message, loop)
        reader.commit(message, asynchronous=True)
    reader.close()


@rabbitmq.consumer()
async def on_fulfilled(message: AbstractIncomingMessage) -> None:
    async with message.process():
        record(message.body.decode(), "rabbitmq")
        await asyncio.to_thread(write_row, message.body.decode(), "fulfilled")


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]))
