"""
Who owns what: the route table, this process's identity, and the verdict on a piece of work.
"""

from __future__ import annotations

from .handover import Claim, Epoch, Handover, State
from .identity import Identity, check_known, resolve_identity
from .lease import View
from .live import LiveRoutes, RouteSource, open_routes, routes_for
from .partitions import Partition
from .record import Position, Reader, decide_record
from .table import Route, RouteTable, parse_table
from .topics import OwnTopic
from .verdict import Action, Verdict, decide

__all__ = [
    "Action",
    "Claim",
    "Epoch",
    "Handover",
    "Identity",
    "LiveRoutes",
    "OwnTopic",
    "Partition",
    "Position",
    "Reader",
    "Route",
    "RouteSource",
    "RouteTable",
    "State",
    "Verdict",
    "View",
    "check_known",
    "decide",
    "decide_record",
    "open_routes",
    "parse_table",
    "resolve_identity",
    "routes_for",
]
