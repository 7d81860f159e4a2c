"""
Kafka in a sandbox's life: in which groups the baseline and the sandbox read, who is in them, where the logs end, and what is left.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from ..errors import HandoverError
from ..messaging.kafka.groups import group_name
from ..routes import Handover, State
from ..routes.handover import Cuts
from ..routes.lives import is_drained
from ..routes.stores import RouteStore, table_of

if TYPE_CHECKING:  # whoever names no Kafka needs no client for it
    from ..messaging.kafka.broker import GroupMember, KafkaBroker, Topic
    from ..messaging.kafka.gap import GapReader, Remaining

__all__ = ["Groups"]


class Groups:
    """
    The consumer groups of sandboxes, and the logs that they read.

    Args:
        store: The route store.
        kafka: The Kafka cluster; None: there is none to ask.
    """

    def __init__(self, store: RouteStore, kafka: KafkaBroker | None) -> None:
        self._store = store
        self._kafka = kafka

    @property
    def known(self) -> bool:
        """
        Whether there is a cluster to ask.
        """
        return self._kafka is not None

    def registered(self, workload: str) -> dict[str, Sequence[str]]:
        """
        Return the groups that running instances of a workload's baseline have registered, with their topics.
        """
        groups: dict[str, set[str]] = {}
        for member in self._store.members(workload):
            if member.group and not member.sandbox:  # also one that was killed has not taken its registration back
                groups.setdefault(member.group, set()).update(member.topics)
        return {group: sorted(topics) for group, topics in groups.items()}

    def check(self, workload: str, groups: Mapping[str, Sequence[str]]) -> None:
        """
        Make sure that a broker is there for a workload that reads from one: cuts that nobody asked it for would be wrong.

        Raises:
            HandoverError: If none is.
        """
        if groups and self._kafka is None:
            raise HandoverError(
                f"{workload} reads Kafka in {', '.join(sorted(groups))}, and it is not said where that is; give kafka=KafkaBroker(...)"
            )

    # Who reads

    def members(self, group: str) -> list[GroupMember]:
        """
        Return the members of a group.
        """
        return self._kafka.members(group) if self._kafka else []

    def strangers(self, row: Handover, group: str) -> list[GroupMember]:
        """
        Return the members of a baseline's group that this library knows nothing of, which take the key's records as well.

        Raises:
            HandoverError: If a sandbox reads in it.
        """
        registered = self._store.members(row.workload)
        mixed = sorted({member.sandbox for member in registered if member.group == group and member.sandbox})
        if mixed:
            raise HandoverError(
                f"sandbox {', '.join(mixed)} reads in {group}, the group of the baseline of {row.workload}, and takes its records; "
                "give 'group.id' by way of SelectiveConsumer, which derives one for each sandbox"
            )
        known = {member.member for member in registered}
        return [member for member in self.members(group) if member.id not in known]

    def spent(self, row: Handover) -> list[str]:
        """
        Return the sandbox's groups that nobody needs any more.
        """
        living = [
            other
            for other in table_of(self._store.snapshot(), origin=self._store.name).handovers(row.workload)
            if other.sandbox == row.sandbox and other.generation == row.generation and other.state is not State.NONE
        ]
        return [] if self._kafka is None or living else self.of_sandbox(row)

    def delete(self, group: str) -> None:
        """
        Delete a group that has no members.
        """
        assert self._kafka is not None  # noqa: S101 - without Kafka there is none
        self._kafka.delete_group(group)

    def of_sandbox(self, row: Handover) -> list[str]:
        """
        Return the groups in which a sandbox reads.
        """
        return [group_name(base, row.sandbox, row.generation) for base in row.groups]

    # The logs

    def topics(self, row: Handover) -> dict[str, Topic]:
        """
        Return the topics of a life that are there.
        """
        names = {name for topics in row.groups.values() for name in topics}
        return self._kafka.topics(names) if self._kafka else {}

    def beginnings(self, row: Handover) -> tuple[Cuts, dict[str, str]]:
        """
        Return where the logs of a life end now, and what the broker calls each of its topics for itself.

        Raises:
            HandoverError: If a topic is not there.
        """
        topics = self.topics(row)
        missing = sorted({name for names in row.groups.values() for name in names} - topics.keys())
        if missing:
            raise HandoverError(f"Kafka has no topic {', '.join(missing)}, which {row.workload} is said to read; create it first")
        ids = {name: topic.id for name, topic in topics.items()}
        return (self._kafka.log_ends(topics) if self._kafka else {}), ids

    def ends(self, row: Handover) -> Cuts:
        """
        Return where the logs of a life end now.
        """
        return self._kafka.log_ends(self.topics(row)) if self._kafka else {}

    def is_drained(self, row: Handover) -> bool:
        """
        Return whether the sandbox has handled all that came before its end.
        """
        if self._kafka is None or not row.groups:
            return True
        topics = self.topics(row)
        committed = {base: self._kafka.committed(group_name(base, row.sandbox, row.generation), topics) for base in row.groups}
        return is_drained(row, committed, self._kafka.log_starts(topics))

    def remade(self, row: Handover) -> list[str]:
        """
        Return the topics that were deleted and made again since a key was handed over.
        """
        if self._kafka is None or not row.epochs:
            return []
        ids = row.epochs[-1].ids
        return sorted(name for name, topic in self._kafka.topics(ids).items() if topic.id != ids[name])

    def tell_remade(self, row: Handover) -> None:
        """
        Say of which topics the cuts mean nothing any more.
        """
        for topic in self.remade(row):
            logging.getLogger("tenancy").error(
                "the topic %s was made again since %s on %s was handed to sandbox %s: the cuts are those of the old records. Of the new ones "
                "the baseline handles those before the start cut, and nobody those between start and end; see docs/how-to/hand-over.md",
                topic,
                row.key,
                row.workload,
                row.sandbox,
            )

    def reader(
        self,
        row: Handover,
        name: str,
        remaining: Remaining,
        *,
        tell: Callable[[str], None] = lambda _: None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> GapReader | None:
        """
        Return what handles that which a sandbox has left; None where it reads nothing.

        Args:
            row: The lives of the key, which is being reclaimed.
            name: By what the reader is known as the claimant.
            remaining: What becomes of each message.
            tell: Is told what is going on.
            sleep: How to wait.
        """
        if self._kafka is None:
            assert not row.groups  # noqa: S101 - checked before
            return None
        from ..messaging.kafka.gap import GapReader

        return GapReader(self._kafka, self._store, row, name, remaining, tell=tell, sleep=sleep)
