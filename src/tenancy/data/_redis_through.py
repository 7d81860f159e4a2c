"""
Reading through to the baseline: a key's name is the baseline's until the routing key first changes it, when it is copied whole.

Which names are the routing key's own stands in a set beside its part, so that what it has deleted, or what has expired, does not come back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from ._redis_names import Part

__all__ = ["claim", "owned", "owned_options"]

# KEYS: the set of own names; then the routing key's own keys. ARGV: their names as the baseline has them. COPY keeps the time to live, and
# leaves alone what is there already. To declare the baseline's as keys would ask for the right to write them, which a user of Redis that is
# held to its part has not; COPY in the script asks for the right to read. Nothing but a cluster needs them declared:
# https://redis.io/docs/latest/develop/programmability/eval-intro/#script-parameterization
_CLAIM: Final = """
for i = 1, #ARGV do
  if redis.call('SADD', KEYS[1], ARGV[i]) == 1 then redis.call('COPY', ARGV[i], KEYS[i + 1]) end
end
"""


def owned(part: Part, names: Sequence[bytes]) -> tuple[Any, ...]:
    """
    Return the command that tells for each name whether it is the routing key's own: 1, or 0.
    """
    return ("SMISMEMBER", part.marker, *names)


def owned_options(part: Part) -> dict[str, Any]:
    """
    Return the options of redis-py for `owned`.
    """
    # Its client-side cache would keep the answer, and refuses to do so without a name for which Redis could tell that it has changed.
    return {"keys": [part.marker]}


def claim(part: Part, names: Sequence[bytes]) -> tuple[Any, ...]:
    """
    Return the command that makes names the routing key's own, with the values that the baseline has now.
    """
    return ("EVAL", _CLAIM, 1 + len(names), part.marker, *(part.raw + name for name in names), *names)
