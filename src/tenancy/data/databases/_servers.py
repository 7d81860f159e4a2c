"""
What a connection says of where it is: its database, and which server that is on, by whatever address it was reached.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from sqlalchemy.engine.interfaces import Dialect

__all__ = ["Server", "database_of", "server_of"]

_QUESTIONS = {"postgresql": "SELECT current_database()", "mysql": "SELECT DATABASE()", "mariadb": "SELECT DATABASE()"}

# Not pg_control_system(): a copy of a server's files, such as a vendor's branch, has the same identifier. Not inet_server_addr(): a server
# has several addresses. It has one moment, in microseconds, at which it was started.
_POSTGRESQL = "SELECT extract(epoch FROM pg_postmaster_start_time())::text, current_setting('port'), version()"
_MYSQL = "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('hostname', 'port', 'datadir', 'server_uuid', 'server_uid', 'pid_file')"
_UPTIME = "SHOW GLOBAL STATUS LIKE 'Uptime'"


class Server(NamedTuple):
    """
    What tells one running server from all others.

    Args:
        marks: What it says of itself.
        started: When it was started, by this process's clock, for a server whose marks a copy of it would have, too.
    """

    marks: frozenset[tuple[str, ...]]
    started: float

    def is_same(self, other: Server) -> bool:
        """
        Return whether both are one; a server tells whole seconds.
        """
        return self.marks == other.marks and abs(self.started - other.started) <= 2


def database_of(dialect: Dialect, connection: Any) -> str:
    """
    Ask the server which database a new connection is in: options, a pooler or a listener may have the last word.
    """
    if dialect.name == "sqlite":
        return next(str(row[2]) for row in _rows(dialect, connection, "PRAGMA database_list") if row[1] == "main")
    return str(_rows(dialect, connection, _QUESTIONS[dialect.name])[0][0])


def server_of(dialect: Dialect, connection: Any) -> Server:
    """
    Ask a PostgreSQL, MySQL or MariaDB server which it is.
    """
    if dialect.name == "postgresql":
        return Server(frozenset({tuple(map(str, _rows(dialect, connection, _POSTGRESQL)[0]))}), 0)
    uptime = int(_rows(dialect, connection, _UPTIME)[0][1])
    marks = {tuple(map(str, row)) for row in _rows(dialect, connection, _MYSQL)}
    return Server(frozenset(marks), time.monotonic() - uptime)


def _rows(dialect: Dialect, connection: Any, question: str) -> list[Any]:
    cursor = connection.cursor()
    try:
        cursor.execute(question)
        found = list(cursor.fetchall())
    finally:
        cursor.close()
    dialect.do_rollback(connection)
    return found
