"""
A database of its own for each routing key: providers make it, and an engine of SQLAlchemy's goes to it.
"""

from ..._optional import extra

with extra("sqlalchemy", "sqlalchemy"):
    import sqlalchemy as _  # noqa: F401

from ._provider import Database, Databases, Provider, RegisteredProvider
from ._registry import Attempt, Entry, Registry
from ._routing import DatabasePerKey
from .command import Command
from .sqlite import SQLiteFile

__all__ = [
    "Attempt", "Command", "Database", "DatabasePerKey", "Databases", "Entry", "Provider", "RegisteredProvider", "Registry", "SQLiteFile",
]  # fmt: skip
