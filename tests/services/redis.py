"""
Redis (or Valkey, which took over its protocol), in memory only.
"""

from __future__ import annotations

import shutil

from .base import Image, Missing, ask
from .local import Local

__all__ = ["Redis"]


class Redis(Local):
    """
    One Redis server without a password, that keeps nothing on disk: after a restart it is empty.

    Args:
        binary: Path of redis-server.
    """

    name = "redis"
    variable = "TENANCY_TEST_REDIS"
    hint = "a URL such as redis://127.0.0.1:6379/0"
    packages = ("redis-server",)

    def __init__(self, binary: str) -> None:
        super().__init__()
        self._binary = binary

    @classmethod
    def locate(cls) -> Redis:
        binary = shutil.which("redis-server") or shutil.which("valkey-server")
        if binary is None:
            raise Missing("there is no redis-server on PATH")
        return cls(binary)

    @staticmethod
    def image() -> Image:
        return Image("redis:7", 6379, arguments=("redis-server", "--save", "", "--appendonly", "no"))

    @staticmethod
    def url(host: str, port: int) -> str:
        return f"redis://{host}:{port}/0"

    @staticmethod
    def answers(host: str, port: int) -> bool:
        return ask(host, port, b"PING\r\n", 7) == b"+PONG\r\n"

    def prepare(self) -> None:
        """
        Redis makes what it needs itself.
        """

    def command(self) -> list[str]:
        options = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.directory)]
        return [self._binary, *options, "--save", "", "--appendonly", "no", "--daemonize", "no"]
