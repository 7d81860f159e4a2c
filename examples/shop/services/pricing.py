"""
Pricing: a gRPC server on threads.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor

import grpc

from examples.shop.common import handled, ready, stop_on_sigterm
from tenancy.grpc import ServerInterceptor


def quote(request: bytes, context: grpc.ServicerContext) -> bytes:
    handled(request.decode())
    return json.dumps({"price": 100 + len(request)}).encode()


def main() -> None:
    stop_on_sigterm()
    server = grpc.server(ThreadPoolExecutor(8), interceptors=[ServerInterceptor()])
    handlers = {"Quote": grpc.unary_unary_rpc_method_handler(quote)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("shop.Pricing", handlers)])
    server.add_insecure_port(f"127.0.0.1:{os.environ['SHOP_PORT']}")
    server.start()
    ready()
    try:
        server.wait_for_termination()
    finally:
        server.stop(0)


if __name__ == "__main__":
    main()
