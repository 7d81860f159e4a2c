"""
A controller in the world of the model: the real `Controller` and `GapReader`, interrupted before and after every call to the outside.
"""

from __future__ import annotations

from typing import Any

from greenlet import GreenletExit, getcurrent, greenlet

from tenancy.errors import TenancyError
from tenancy.sandbox.controller import Controller, Fork
from tests.protocol.checker import BASELINE, Record
from tests.protocol.cluster import BASE, TOPIC, WORKLOAD, KafkaOf, Process, StoreOf, sandbox_group, stage

__all__ = ["GapConsumer", "Operator"]


class Operator(Process):
    """
    One run of `Controller.create` or `Controller.delete`.

    Args:
        world: Where.
        name: What it is called.
        rate: How fast its clock is.
        sandbox: The sandbox.
        keys: The keys to create; none: delete the sandbox.
        drain: Seconds that the sandbox has to drain.
        remaining: What becomes of what it leaves: ``drop``, or ``handle``.
    """

    def __init__(
        self,
        world: Any,
        name: str,
        rate: float,
        sandbox: str,
        keys: tuple[str, ...] = (),
        *,
        drain: float = 20.0,
        remaining: str = "handle",
    ) -> None:
        super().__init__(world, name, rate)
        self.sandbox = sandbox
        self.keys = keys
        self.drain = drain
        self.drops = remaining == "drop"
        #: When it goes on, by the world's time.
        self.wakes = 0.0
        self.doing = "begins"
        self.error: TenancyError | None = None
        kafka: Any = KafkaOf(world.kafka, self.switch, by_commits=world.switches.cuts == "commits")
        self.controller = Controller(StoreOf(world.store, self.switch), kafka, sleep=self.sleep)
        self.controller.name = world.switches.claimant or name
        self._greenlet = greenlet(self._run)
        self._parent: greenlet | None = None

    @property
    def able(self) -> bool:
        """
        Whether it can take a step.
        """
        return self.up and not self.stopped and self.world.time >= self.wakes

    def step(self) -> bool:
        """
        Go on to the next call to the outside.
        """
        if not self.able:
            return False
        stage.process = self
        self._parent = getcurrent()
        self._greenlet.parent = self._parent
        self._greenlet.switch()
        return True

    def switch(self, doing: str) -> None:
        """
        Let others go on; called by what the controller calls.
        """
        self.doing = doing
        assert self._parent is not None
        self._parent.switch()

    def sleep(self, seconds: float) -> None:
        """
        Wait, by its own clock.
        """
        self.wakes = self.world.time + seconds / self.rate
        self.switch("waits")

    def crash(self) -> None:
        """
        Die.
        """
        self.up = False
        if not self._greenlet.dead:
            self._greenlet.parent = getcurrent()
            self._greenlet.throw(GreenletExit)

    def _run(self) -> None:
        try:
            if self.keys:
                forks = [Fork(WORKLOAD, key, {BASE: (TOPIC,)}) for key in self.keys]
                self.controller.create(self.sandbox, forks, deadline=1e9)
            else:
                self.controller.delete(
                    self.sandbox, deadline=1e9, drain=self.drain, remaining="drop" if self.drops else self.handle
                )
        except TenancyError as error:
            self.error = error
        self.up = False
        self.doing = "is done" if self.error is None else f"gives up: {self.error}"

    def handle(self, message: GapMessage) -> None:
        """
        Handle a record in the place of the sandbox.
        """
        world, record = self.world, message.record
        name = sandbox_group(self.sandbox, self._generation(record))
        disturbed = world.kafka.disturbed.get((name, record.partition), 0)
        handling = world.checker.gap_begins(record, self.controller.name, disturbed)
        self.switch(f"handles {record} as gap reader")
        world.checker.ends(record, handling)

    def _generation(self, record: Record) -> int:
        owner = self.world.checker.owner(record)
        return 0 if owner == 0 else int(self.world.checker.life(record.key, owner).group[1])


class GapMessage:
    """
    A record as a client has it.
    """

    def __init__(self, record: Record | None, partition: int, offset: int, error: Any = None) -> None:
        self.record: Any = record
        self._partition = partition
        self._offset = offset
        self._error = error

    def topic(self) -> str:
        return TOPIC

    def partition(self) -> int:
        return self._partition

    def offset(self) -> int:
        return self._offset

    def error(self) -> Any:
        return self._error

    def headers(self) -> list[tuple[str, bytes]]:
        key = self.record.key
        return [] if key is None else [("baggage", b"sd-routing-key=" + key.encode())]


class _End:
    def __init__(self, code: int) -> None:
        self._code = code

    def code(self) -> int:
        return self._code


class GapConsumer:
    """
    The client of a gap reader.
    """

    #: The code of the error that tells of the end of a partition.
    END = -191

    def __init__(self, config: Any) -> None:
        assert isinstance(stage.process, Operator)
        self._process: Operator = stage.process
        self._kafka = self._process.world.kafka
        self._positions: dict[int, int] = {}
        #: Partitions of which it was said that the log ends here.
        self._told: set[int] = set()

    def assign(self, partitions: list[Any]) -> None:
        self._positions = {entry.partition: entry.offset for entry in partitions}

    def incremental_unassign(self, partitions: list[Any]) -> None:
        for entry in partitions:
            del self._positions[entry.partition]

    def poll(self, timeout: float) -> Any:
        self._process.switch("reads as gap reader")
        for partition, position in sorted(self._positions.items()):
            log = self._kafka.logs[partition]
            at = max(position, self._kafka.starts[partition])
            if at < len(log):
                self._positions[partition] = at + 1
                self._told.discard(partition)
                self._drop(log[at])
                return GapMessage(log[at], partition, at)
            if partition not in self._told:
                self._told.add(partition)
                return GapMessage(None, partition, len(log), _End(self.END))
        return None

    def _drop(self, record: Record) -> None:
        process = self._process
        if process.drops and record.key is not None and process.world.checker.owner(record) != BASELINE:
            record.dropped = True

    def close(self) -> None:
        pass
