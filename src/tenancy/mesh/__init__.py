"""
Rules for the mesh: send each request to the workload that owns it, and strip keys at the public gateway.

`render` is a pure function from baselines and forks to the documents of one target; `validate` asks the target itself. Needs the
standard library only.
"""

from __future__ import annotations

from .envoy import EnvoyTarget, Listener
from .model import Baseline, Endpoint, Fork, Protocol
from .plan import Document, Plan, Route, Target, render
from .verify import find_envoy, validate

__all__ = [
    "Baseline",
    "Document",
    "Endpoint",
    "EnvoyTarget",
    "Fork",
    "Listener",
    "Plan",
    "Protocol",
    "Route",
    "Target",
    "find_envoy",
    "render",
    "validate",
]
