"""
Who this process is: a workload, and the baseline or a sandbox of it. Never guessed.
"""

from __future__ import annotations

import difflib
from typing import NamedTuple

from ..config import Settings, settings, switched_on
from ..errors import IdentityError
from ..naming import is_workload
from .table import RouteTable

__all__ = ["Identity", "check_known", "resolve_identity"]


class Identity(NamedTuple):
    """
    Who a process is.

    Args:
        workload: The workload, ``namespace/name``.
        sandbox: The sandbox that this process belongs to; None: it is the baseline.
    """

    workload: str
    sandbox: str | None

    def __str__(self) -> str:
        return f"{self.workload} ({'baseline' if self.sandbox is None else f'sandbox {self.sandbox}'})"


def resolve_identity(workload: str | None = None, *, using: Settings | None = None) -> Identity:
    """
    Return who this process is, from the argument and the settings.

    Args:
        workload: The workload, ``namespace/name``; default the setting ``workload``.
        using: The settings; default this process's own.

    Raises:
        IdentityError: If the workload or the role is not said, if two settings contradict each other, or if tenancy is switched off in a
            sandbox, which would then silently act as the baseline.
    """
    using = settings() if using is None else using
    workload = using.workload if workload is None else workload
    switched_on(using)
    if not workload:
        raise IdentityError(
            "this process's workload is not known; set TENANCY_WORKLOAD=namespace/name, or pass workload='namespace/name'"
        )
    if not is_workload(workload):
        raise IdentityError(f"workload (TENANCY_WORKLOAD) is {workload!r}; write namespace/name in lower case, such as shop/orders")
    if using.sandbox is not None and using.role == "baseline":
        raise IdentityError(
            f"TENANCY_ROLE is 'baseline', but TENANCY_SANDBOX is {using.sandbox!r}; a process is one or the other, so remove one of them"
        )
    if using.sandbox is not None:
        return Identity(workload, using.sandbox)
    if using.role == "sandbox":
        raise IdentityError("TENANCY_ROLE is 'sandbox', but the sandbox has no name; set TENANCY_SANDBOX=name")
    if using.role is None:
        raise IdentityError(
            f"it is not said whether this process of {workload} is the baseline or a sandbox; set TENANCY_ROLE=baseline, or "
            "TENANCY_SANDBOX=name. It is never guessed, since a sandbox that lost its variables would take the baseline's work"
        )
    return Identity(workload, None)


def check_known(identity: Identity, table: RouteTable) -> None:
    """
    Make sure that the route table knows this process's workload.

    Raises:
        IdentityError: If it does not; a misspelt workload would never meet a route and take every sandbox's work.
    """
    if identity.workload in table.workloads:
        return
    close = difflib.get_close_matches(identity.workload, table.workloads, n=3)
    hint = f"; did you mean {' or '.join(close)}?" if close else "."
    raise IdentityError(
        f"the route table does not know the workload {identity.workload!r}{hint} Correct TENANCY_WORKLOAD, or add the workload to "
        "'workloads' in the table"
    )
