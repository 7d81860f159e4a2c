"""The shop's storefront, tested as its team would: in this process, with stand-ins for the services that it calls."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

ROOT = Path(__file__).resolve().parents[2]

CHECK = """
from examples.shop.services.storefront import app
from tenancy.testing import assert_propagates
assert_propagates(app, "/checkout/1", method="POST", hops=2)
"""


class Pricing(grpc.GenericRpcHandler):
    def service(self, handler_call_details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(lambda request, context: json.dumps({"price": 1}).encode())


@pytest.mark.parametrize("sabotage", ["", "drop-baggage"])
def test_the_storefront_carries_the_key(sabotage: str, peer: str, tmp_path: Path) -> None:
    """Over gRPC to pricing and over HTTP to orders; sabotaged as the demo can be, it fails and names both hops."""
    server = grpc.server(ThreadPoolExecutor(8), handlers=[Pricing()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    shop = {
        "RUN": str(tmp_path),
        "ID": "test",
        "SERVICE": "storefront",
        "VERSION": "baseline",
        "DATABASE": "-",
        "KAFKA": "-",
        "SABOTAGE": sabotage,
        "ORDERS_URL": peer,
        "PRICING_TARGET": f"127.0.0.1:{port}",
    }
    environment = {**os.environ, **{f"SHOP_{name}": value for name, value in shop.items()}}
    try:
        done = subprocess.run(
            [sys.executable, "-c", CHECK], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100, check=False
        )
    finally:
        server.stop(0).wait()
    if not sabotage:
        assert done.returncode == 0, done.stderr
        return
    assert "POST /checkout/1, with pr-42: 2 of 2 outbound hops do not carry what they should:" in done.stderr
    assert f"call 127.0.0.1:{port} /shop.Pricing/Quote, by grpc.aio" in done.stderr
    assert f"POST {peer}/orders/1, by httpcore" in done.stderr
    assert "sent at examples/shop/services/storefront.py" in done.stderr
