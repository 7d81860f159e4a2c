"""
Who owns what: the route table, this process's identity, and the verdict on a piece of work.
"""

from __future__ import annotations

from .identity import Identity, check_known, resolve_identity
from .live import LiveRoutes, RouteSource, open_routes, routes_for
from .table import Route, RouteTable, parse_table
from .verdict import Action, Verdict, decide

__all__ = [
    "Action",
    "Identity",
    "LiveRoutes",
    "Route",
    "RouteSource",
    "RouteTable",
    "Verdict",
    "check_known",
    "decide",
    "open_routes",
    "parse_table",
    "resolve_identity",
    "routes_for",
]
