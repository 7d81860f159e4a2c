"""
MariaDB, with a database `tenancy` and a user `root` that needs no password.
"""

from __future__ import annotations

import os
import pwd
import shutil

from .base import Image, Missing, ask
from .local import Local

__all__ = ["MariaDB"]

DATABASE = "tenancy"

# Written to disk lazily, since nothing but a crash of the machine loses what the operating system was given.
_OPTIONS = (
    "--innodb-flush-log-at-trx-commit=2",
    "--innodb-buffer-pool-size=64M",
    "--max-connections=300",
    "--max-connect-errors=1000000000",
    "--performance-schema=OFF",
    "--skip-name-resolve",
)
_FIRST = f"""CREATE DATABASE IF NOT EXISTS {DATABASE};
CREATE USER IF NOT EXISTS 'root'@'%' IDENTIFIED BY '';
GRANT ALL PRIVILEGES ON *.* TO 'root'@'%' WITH GRANT OPTION;
"""


class MariaDB(Local):
    """
    One MariaDB server on a fresh data directory. It refuses to run as root, so root runs it as another user.

    Args:
        binary: Path of mariadbd.
        installer: Path of mariadb-install-db.
        user: The account to run it as; None for our own.
    """

    name = "mariadb"
    variable = "TENANCY_TEST_MARIADB"
    hint = "a URL such as mysql://root@127.0.0.1:3306/tenancy"
    packages = ("mariadb-server",)

    def __init__(self, binary: str, installer: str, user: str | None) -> None:
        super().__init__()
        self.user = user
        self._binary = binary
        self._installer = installer

    @classmethod
    def locate(cls) -> MariaDB:
        # Debian keeps servers out of the PATH of ordinary users.
        path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/libexec"])
        binary, installer = shutil.which("mariadbd", path=path), shutil.which("mariadb-install-db", path=path)
        if binary is None or installer is None:
            raise Missing("there is no mariadbd and mariadb-install-db on PATH")
        return cls(binary, installer, _unprivileged() if os.geteuid() == 0 else None)

    @staticmethod
    def image() -> Image:
        environment = {"MARIADB_ALLOW_EMPTY_ROOT_PASSWORD": "1", "MARIADB_DATABASE": DATABASE}
        return Image("mariadb:11", 3306, environment, ("mariadbd", *_OPTIONS))

    @staticmethod
    def url(host: str, port: int) -> str:
        return f"mysql://root@{host}:{port}/{DATABASE}"

    @staticmethod
    def answers(host: str, port: int) -> bool:
        # The server speaks first: the length of its greeting in three bytes, a number, and the version of the protocol, which is 10.
        return ask(host, port, b"", 5)[4:] == b"\n"

    def prepare(self) -> None:
        options = ["--no-defaults", f"--datadir={self.directory / 'data'}", "--auth-root-authentication-method=normal"]
        self.run([self._installer, *options, "--skip-test-db"])
        (self.directory / "first.sql").write_text(_FIRST)

    def command(self) -> list[str]:
        place = [f"--datadir={self.directory / 'data'}", f"--port={self.port}", "--bind-address=127.0.0.1"]
        files = [
            f"--socket={self.directory / 's'}",
            f"--pid-file={self.directory / 'pid'}",
            f"--init-file={self.directory / 'first.sql'}",
        ]
        return [self._binary, "--no-defaults", *place, *files, *_OPTIONS]

    def environment(self) -> dict[str, str]:
        return {"LC_ALL": "C"}


def _unprivileged() -> str:
    for name in ("mysql", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise Missing("MariaDB does not run as root, and there is no user mysql or nobody")
