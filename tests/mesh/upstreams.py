"""
Small real servers that say who they are and what reached them.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from websockets.sync.server import ServerConnection, serve


class _Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: EchoServer

    def do_GET(self) -> None:
        if self.path == "/events":
            self._events()
            return
        if self.path.startswith("/sleep/"):
            time.sleep(float(self.path.removeprefix("/sleep/")))
        length = int(self.headers.get("content-length") or 0)
        body = {
            "served_by": self.server.name,
            "headers": [[name.lower(), value] for name, value in self.headers.items()],
            "received": len(self.rfile.read(length)),
        }
        self._answer(json.dumps(body).encode())

    do_POST = do_GET

    def _answer(self, body: bytes) -> None:
        # In one write: with two, the second waits 40 ms for the delayed acknowledgement of the first.
        self.wfile.write(b"HTTP/1.1 200 OK\r\nserver: echo\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))

    def _events(self) -> None:
        """Server-sent events: one at once, the next only when the test has seen the first, or never."""
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        try:
            for number in range(3):
                event = f"data: {self.server.name} {number}\n\n".encode()
                self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
                self.wfile.flush()
                self.server.next_event.acquire(timeout=20)
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


class EchoServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, name: str) -> None:
        super().__init__(("127.0.0.1", 0), _Echo)
        self.name = name
        self.next_event = threading.Semaphore(0)


@contextmanager
def http(name: str) -> Iterator[EchoServer]:
    with EchoServer(name) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(10)


@contextmanager
def websocket(name: str) -> Iterator[int]:
    def handler(connection: ServerConnection) -> None:
        connection.send(name)
        for message in connection:
            connection.send(f"{name}: {message!s}")

    with serve(handler, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server.socket.getsockname()[1]
        finally:
            server.shutdown()
            thread.join(10)


@contextmanager
def grpc_server(name: str) -> Iterator[int]:
    own = name.encode()

    def unary(request: bytes, context: grpc.ServicerContext) -> bytes:
        seen = [[key, value] for key, value in context.invocation_metadata() if isinstance(value, str)]
        return json.dumps({"served_by": name, "headers": seen, "received": len(request)}).encode()

    def down(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        for number in range(3):
            yield own + b" %d" % number

    def both(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        for request in requests:
            yield own + b" " + request

    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Down": grpc.unary_stream_rpc_method_handler(down),
        "Both": grpc.stream_stream_rpc_method_handler(both),
    }
    server = grpc.server(futures.ThreadPoolExecutor(8), options=[("grpc.max_receive_message_length", -1)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.Stock", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait(10)


Answer = dict[str, Any]
