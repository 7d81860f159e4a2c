"""
Orders: writes a row, and tells the rest of the shop over Kafka.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from confluent_kafka import Producer
from fastapi import FastAPI
from sqlalchemy import create_engine, insert

from examples.shop.common import DATABASE, KAFKA, TOPIC, handled, isolate, orders, own_data, ready
from tenancy.http.fastapi import TenancyMiddleware
from tenancy.messaging.confluent_kafka import inject

engine = create_engine(DATABASE)
isolate(engine)
producer = Producer({"bootstrap.servers": KAFKA, "linger.ms": 5})


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    ready()
    yield
    producer.flush(10)


app = FastAPI(lifespan=lifespan)
app.add_middleware(TenancyMiddleware)


@app.post("/orders/{order}")
def place(order: str, body: dict[str, int]) -> dict[str, str]:
    handled(order)
    with own_data(), engine.begin() as connection:
        connection.execute(insert(orders).values(order_id=order, price=body["price"]))
    producer.produce(TOPIC, key=order, value=json.dumps({"order": order}), headers=inject())
    producer.poll(0)
    return {"order": order}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["SHOP_PORT"]), log_level="warning")
