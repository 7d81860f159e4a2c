"""
PostgreSQL, with a database `tenancy` and a superuser `postgres` that needs no password.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import re
import shutil
import signal
import struct
from collections.abc import Iterator
from pathlib import Path

from .base import Image, Missing, ask
from .local import Local

__all__ = ["PostgreSQL"]

DATABASE = "tenancy"

# fsync guards against a crash of the machine, which would take the test along; a killed server loses nothing without it. Commits are
# still handed to the operating system (synchronous_commit stays on), or a killed server would lose some that it had confirmed.
_SETTINGS = {"fsync": "off", "full_page_writes": "off", "max_connections": "200", "shared_buffers": "64MB"}
_OPTIONS = tuple(word for name, value in _SETTINGS.items() for word in ("-c", f"{name}={value}"))


class PostgreSQL(Local):
    """
    One PostgreSQL server on a fresh cluster. It refuses to run as root, so root runs it as another user.

    Args:
        binaries: The directory of postgres and initdb.
        user: The account to run it as; None for our own.
    """

    name = "postgresql"
    variable = "TENANCY_TEST_POSTGRESQL"
    hint = "a DSN such as postgresql://postgres@127.0.0.1:5432/tenancy"
    packages = ("postgresql",)
    # The default signal would wait for all clients to leave.
    end = signal.SIGINT

    def __init__(self, binaries: Path, user: str | None) -> None:
        super().__init__()
        self.user = user
        self.binaries = binaries

    @classmethod
    def locate(cls) -> PostgreSQL:
        user = _unprivileged() if os.geteuid() == 0 else None
        for directory in _candidates():
            if all(os.access(directory / name, os.X_OK) for name in ("initdb", "postgres")):
                return cls(directory, user)
        raise Missing("there is no initdb and postgres on PATH or in the usual places")

    @staticmethod
    def image() -> Image:
        environment = {"POSTGRES_USER": "postgres", "POSTGRES_DB": DATABASE, "POSTGRES_HOST_AUTH_METHOD": "trust"}
        return Image("postgres:17", 5432, environment, ("postgres", *_OPTIONS))

    @staticmethod
    def url(host: str, port: int) -> str:
        return f"postgresql://postgres@{host}:{port}/{DATABASE}"

    @staticmethod
    def answers(host: str, port: int) -> bool:
        # A server that still recovers accepts connections, and refuses (E) whoever introduces himself; a ready one asks for, or
        # confirms, the identity (R).
        who = f"user\0postgres\0database\0{DATABASE}\0\0".encode()
        return ask(host, port, struct.pack(">ii", 8 + len(who), 0x30000) + who, 1) == b"R"

    @property
    def _data(self) -> Path:
        return self.directory / "data"

    def prepare(self) -> None:
        initdb = [str(self.binaries / "initdb"), "-D", str(self._data), "-U", "postgres", "--auth=trust", "--no-sync"]
        self.run([*initdb, "--encoding=UTF8", "--locale=C"])
        # The single-user mode needs no client program, and no server to be started for it.
        self.run(
            [str(self.binaries / "postgres"), "--single", "-F", "-D", str(self._data), "template1"],
            f"CREATE DATABASE {DATABASE}\n",
        )

    def command(self) -> list[str]:
        return self.server_command(self.port)

    def server_command(self, port: int) -> list[str]:
        """
        The command line of the server, on a port.
        """
        place = ["-D", str(self._data), "-p", str(port), "-c", "listen_addresses=127.0.0.1", "-k", str(self.directory)]
        return [str(self.binaries / "postgres"), *place, *_OPTIONS]

    def environment(self) -> dict[str, str]:
        # Messages are compared with English ones by people who read the log tail.
        return {"LC_ALL": "C", "PGDATA": str(self._data)}


def _candidates() -> Iterator[Path]:
    """
    Yield the directories where the binaries may be: PATH, the places of packages, newest version first, and that of a wheel.
    """
    on_path = shutil.which("postgres")
    if on_path:
        yield Path(on_path).parent
    found: list[tuple[float, Path]] = []
    for pattern in (
        "usr/lib/postgresql/*/bin",
        "usr/pgsql-*/bin",
        "opt/homebrew/opt/postgresql@*/bin",
        "usr/local/opt/postgresql@*/bin",
    ):
        for directory in Path("/").glob(pattern):
            version = re.search(r"\d+(\.\d+)?", str(directory.parent.name))
            found.append((float(version.group()) if version else 0, directory))
    for _, directory in sorted(found, reverse=True):
        yield directory
    # The wheel `pgserver` carries the binaries; our own code runs them.
    wheel = importlib.util.find_spec("pgserver")
    if wheel is not None and wheel.origin:
        yield Path(wheel.origin).parent / "pginstall" / "bin"


def _unprivileged() -> str:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise Missing("PostgreSQL does not run as root, and there is no user postgres or nobody")
