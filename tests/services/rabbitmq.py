"""
RabbitMQ, without plugins and without a trace of the system's own RabbitMQ.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from .base import Image, Missing, ask, connects, free_port
from .local import Local

__all__ = ["RabbitMQ"]

_HEADER = b"AMQP\x00\x00\x09\x01"


class RabbitMQ(Local):
    """
    One RabbitMQ node, with an Erlang port mapper of its own in the foreground: left alone, Erlang would start one that outlives it.

    Args:
        binary: Path of rabbitmq-server: the script itself, not the wrapper on Debian's PATH, which changes the user.
        mapper: Path of epmd.
    """

    name = "rabbitmq"
    variable = "TENANCY_TEST_RABBITMQ"
    hint = "a URL such as amqp://guest:guest@127.0.0.1:5672/"
    packages = ("rabbitmq-server",)

    def __init__(self, binary: str, mapper: str) -> None:
        super().__init__()
        self._binary = binary
        self._mapper = mapper
        self._mapper_port = free_port()
        self._node_port = free_port()

    @classmethod
    def locate(cls) -> RabbitMQ:
        binary = next(_executable(_servers()), None)
        if binary is None:
            raise Missing("there is no rabbitmq-server on PATH or in the usual places")
        mapper = next(_executable(_mappers()), None)
        if mapper is None or shutil.which("erl") is None:
            raise Missing(f"{binary} is there, but Erlang (erl and epmd) is not")
        return cls(binary, mapper)

    @staticmethod
    def image() -> Image:
        return Image("rabbitmq:4", 5672)

    @staticmethod
    def url(host: str, port: int) -> str:
        return f"amqp://guest:guest@{host}:{port}/"

    @staticmethod
    def answers(host: str, port: int) -> bool:
        # A broker that takes the protocol starts to talk (a method frame); another one would repeat the header that it wants.
        return ask(host, port, _HEADER, 1) == b"\x01"

    def prepare(self) -> None:
        (self.directory / "enabled_plugins").write_text("[].\n")
        (self.directory / "rabbitmq.conf").write_text("log.console.level = warning\n")

    def launch(self) -> None:
        self.spawn([self._mapper])
        # A node that finds no mapper starts one in the background.
        self.wait(connects, self._mapper_port)
        super().launch()

    def command(self) -> list[str]:
        return [self._binary]

    def environment(self) -> dict[str, str]:
        place = self.directory
        return {
            # The Erlang cookie, by which nodes trust each other, is read from and written to HOME.
            "HOME": str(place),
            "ERL_EPMD_PORT": str(self._mapper_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"tenancy-{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._node_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_MNESIA_BASE": str(place),
            "RABBITMQ_MNESIA_DIR": str(place / "data"),
            "RABBITMQ_LOG_BASE": str(place),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_CONFIG_FILE": str(place / "rabbitmq.conf"),
            # The files that the package put into /etc are for the system's own broker.
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(place / "advanced.config"),
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(place / "enabled_plugins"),
        }


def _servers() -> Iterator[Path]:
    yield Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
    for base, pattern in (("/usr/lib/rabbitmq/lib", "rabbitmq_server-*"), ("/opt", "rabbitmq*")):
        yield from (directory / "sbin" / "rabbitmq-server" for directory in sorted(Path(base).glob(pattern), reverse=True))
    yield Path("/opt/homebrew/sbin/rabbitmq-server")
    on_path = shutil.which("rabbitmq-server")
    if on_path:
        yield Path(on_path)


def _mappers() -> Iterator[Path]:
    on_path = shutil.which("epmd")
    if on_path:
        yield Path(on_path)
    for base in ("/usr/lib/erlang", "/usr/local/lib/erlang", "/usr/lib64/erlang", "/opt/homebrew/lib/erlang"):
        yield from sorted(Path(base).glob("erts-*/bin/epmd"), reverse=True)


def _executable(paths: Iterator[Path]) -> Iterator[str]:
    return (str(path) for path in paths if os.access(path, os.X_OK))
