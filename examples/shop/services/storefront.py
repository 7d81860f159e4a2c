"""
The storefront: a FastAPI application that asks pricing over gRPC and orders over HTTP.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import httpx
import uvicorn
from fastapi import FastAPI, HTTPException

import tenancy
from examples.shop.common import SABOTAGE, handled, ready
from tenancy.http.fastapi import TenancyMiddleware

if SABOTAGE != "drop-baggage":
    tenancy.instrument("httpx", "grpc")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with (
        httpx.AsyncClient(base_url=os.environ["SHOP_ORDERS_URL"], timeout=30) as client,
        grpc.aio.insecure_channel(os.environ["SHOP_PRICING_TARGET"]) as channel,
    ):
        app.state.orders = client
        app.state.quote = channel.unary_unary("/shop.Pricing/Quote")
        ready()
        yield


app = FastAPI(lifespan=lifespan)
app.add_middleware(TenancyMiddleware)


@app.post("/checkout/{order}")
async def checkout(order: str) -> dict[str, object]:
    handled(order)
    quote = json.loads(await app.state.quote(order.encode(), timeout=30))
    response = await app.state.orders.post(f"/orders/{order}", json={"price": quote["price"]})
    if response.status_code != 200:
        raise HTTPException(502, f"orders said {response.status_code}: {response.text}")
    return {"order": order, "price": quote["price"]}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["SHOP_PORT"]), log_level="warning")
