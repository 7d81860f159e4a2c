"""
The life of a sandbox: keys are handed to it and taken back, each step visible in the route store and resumable by anybody.
"""

from __future__ import annotations

from .controller import Controller
from .forks import Fork, Progress

__all__ = ["Controller", "Fork", "Progress"]
