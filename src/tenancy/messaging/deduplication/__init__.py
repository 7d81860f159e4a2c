"""
Deduplication: the handling of one message id happens once for each workload, also where the message comes twice.

A message comes twice where a process dies between what it did and its acknowledgement: to the same queue again, or, while a message is
forwarded, to the baseline and to a sandbox, and a forwarded copy is not flagged as redelivered. `open_deduplication` opens what
remembers, `scope_of` names within what, and `once` does the rest.
"""

from __future__ import annotations

from ._base import Deduplication, open_deduplication, scope_of
from ._once import once
from ._records import Claim, Outcome

__all__ = ["Claim", "Deduplication", "Outcome", "once", "open_deduplication", "scope_of"]
