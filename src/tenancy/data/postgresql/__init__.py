"""
A shared PostgreSQL database, partitioned by routing key without copying it.
"""

from __future__ import annotations

from .engine import cover, uncover
from .isolation import PostgresIsolation, Problem, Status
from .modes import Mode, Rows

__all__ = ["Mode", "PostgresIsolation", "Problem", "Rows", "Status", "cover", "uncover"]
