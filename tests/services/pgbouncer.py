"""
PgBouncer in transaction mode, in front of a PostgreSQL of its own.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from .base import Image, Missing, free_port
from .postgresql import PostgreSQL

__all__ = ["USERS", "PgBouncer"]

#: Who may connect; the second is for a role that tests make to own tables, or to be an application's.
USERS = ("postgres", "tenancy_app")

# Fewer connections to the server than the tests have clients, so that one serves many. What drivers send at the start of a session and
# PgBouncer does not keep for it is left out (https://www.pgbouncer.org/config.html).
_SETTINGS = {
    "auth_type": "trust",
    "pool_mode": "transaction",
    "default_pool_size": "8",
    "max_client_conn": "500",
    "ignore_startup_parameters": "extra_float_digits,options",
    "unix_socket_dir": "",
    "query_wait_timeout": "60",
}
# For containers: there is no usual image with both of them.
_SCRIPT = """set -e
apt-get -qq update && apt-get -qq install --yes --no-install-recommends pgbouncer
printf '%s' "$BOUNCER_SETTINGS" > /tmp/bouncer.ini
printf '%s' "$BOUNCER_USERS" > /tmp/users.txt
docker-entrypoint.sh postgres "$@" &
exec gosu postgres pgbouncer -q /tmp/bouncer.ini"""


class PgBouncer(PostgreSQL):
    """
    A PostgreSQL server whose address is that of the PgBouncer before it.

    Args:
        binaries: The directory of postgres and initdb.
        user: The account to run both as; None for our own.
        bouncer: Path of pgbouncer, which refuses to run as root, too.
    """

    name = "pgbouncer"
    variable = "TENANCY_TEST_PGBOUNCER"
    hint = "a DSN such as postgresql://postgres@127.0.0.1:6432/tenancy, of one in transaction mode"
    packages = ("postgresql", "pgbouncer")

    def __init__(self, binaries: Path, user: str | None, bouncer: str) -> None:
        super().__init__(binaries, user)
        self.server_port = free_port()
        self._bouncer = bouncer

    @classmethod
    def locate(cls) -> PgBouncer:
        server = PostgreSQL.locate()
        for candidate in (shutil.which("pgbouncer"), "/usr/sbin/pgbouncer", "/usr/local/sbin/pgbouncer"):
            if candidate and os.access(candidate, os.X_OK):
                return cls(server.binaries, server.user, candidate)
        raise Missing("there is no pgbouncer on PATH or in the usual places")

    @staticmethod
    def image() -> Image:
        server = PostgreSQL.image()
        settings = _configuration(listen="0.0.0.0", port=6432, server_port=5432, users="/tmp/users.txt")
        environment = {**server.environment, "BOUNCER_SETTINGS": settings, "BOUNCER_USERS": _users()}
        return Image(server.name, 6432, environment, ("bash", "-c", _SCRIPT, "postgres", *server.arguments[1:]))

    def prepare(self) -> None:
        super().prepare()
        users = self.directory / "users.txt"
        users.write_text(_users())
        text = _configuration(listen="127.0.0.1", port=self.port, server_port=self.server_port, users=str(users))
        (self.directory / "bouncer.ini").write_text(text)
        for path in (users, self.directory / "bouncer.ini"):
            path.chmod(0o644)

    def command(self) -> list[str]:
        return self.server_command(self.server_port)

    def launch(self) -> None:
        super().launch()
        self.wait(PostgreSQL.answers, self.server_port)
        self.spawn([self._bouncer, "-q", str(self.directory / "bouncer.ini")], end=self.end)


def _configuration(*, listen: str, port: int, server_port: int, users: str) -> str:
    def lines() -> Iterator[str]:
        yield "[databases]"
        yield f"* = host=127.0.0.1 port={server_port}"
        yield "[pgbouncer]"
        yield f"listen_addr = {listen}"
        yield f"listen_port = {port}"
        yield f"auth_file = {users}"
        for name, value in _SETTINGS.items():
            yield f"{name} = {value}"

    return "\n".join(lines()) + "\n"


def _users() -> str:
    return "".join(f'"{name}" ""\n' for name in USERS)
