"""
A client that puts exactly the given bytes on the wire; clients of libraries refuse or tidy up hostile headers.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from typing import Any, NamedTuple

Lines = Sequence[tuple[str, str]]


class Reply(NamedTuple):
    status: int
    body: bytes

    @property
    def served_by(self) -> str:
        return str(self.json["served_by"])

    @property
    def json(self) -> dict[str, Any]:
        assert self.status == 200, self
        return json.loads(self.body)  # type: ignore[no-any-return]

    def values(self, name: str) -> list[str]:
        """What reached the service under a header name, line by line."""
        return [value for each, value in self.json["headers"] if each == name]


def open_request(port: int, lines: Lines, *, path: str = "/", source: str = "127.0.0.1") -> socket.socket:
    """
    Send a request and return the connection; each line as it stands, in Latin-1.
    """
    connection = socket.create_connection(("127.0.0.1", port), timeout=20, source_address=(source, 0))
    head = [f"GET {path} HTTP/1.1", "host: shop", "connection: close", *(f"{name}:{value}" for name, value in lines)]
    connection.sendall("\r\n".join([*head, "", ""]).encode("latin-1"))
    return connection


def request(port: int, lines: Lines = (), *, path: str = "/", source: str = "127.0.0.1") -> Reply:
    """
    Send a request and return the whole reply.
    """
    with open_request(port, lines, path=path, source=source) as connection:
        data = b""
        while chunk := connection.recv(65536):
            data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    return Reply(int(head.split(b" ", 2)[1]), body)
