"""
What a sandbox calls its consumer groups.
"""

from __future__ import annotations

from ...naming import partition_name

__all__ = ["group_name"]


def group_name(base: str, sandbox: str, generation: int = 0) -> str:
    """
    Return the consumer group in which a sandbox reads what the baseline reads in *base*.

    Args:
        base: The baseline's group.
        sandbox: The sandbox's name.
        generation: Which of its lives on the workload, so that members that were left over from an earlier one are not in the way; 0: the
            route table knows of none.
    """
    name = partition_name(sandbox, base, kind="kafka-group")
    return f"{name}.{generation}" if generation else name
