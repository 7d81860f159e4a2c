"""
The transactional part of a chaos run: consume, process and produce, exactly once, through a life of a key, kills and a pause.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from confluent_kafka.cimpl import Consumer

from .checker import Logs, check
from .journal import Handled, Sent, clock
from .producer import PARTITIONS
from .spec import LEASE, SESSION
from .stage import Late, Stage
from .transactor import output_topic

__all__ = ["Transacted", "transact"]

_KEY, _SANDBOX = "pr-1", "sb-1"
_SIDE = 60


class Transacted(NamedTuple):
    """
    What came of it.

    Args:
        messages: How many records were sent.
        duplicates: How often something was made of a record that something had been made of before.
        lost: Of how many records nothing was made.
        wrong_owner: Of how many records something was made by somebody whose they are not.
        problems: The first problems, in words.
    """

    messages: int
    duplicates: int
    lost: int
    wrong_owner: int
    problems: tuple[str, ...] = ()


def transact(seconds: float, kafka: str, store: str, directory: Path, *, deadline: float = 150.0) -> Transacted:
    """
    Run it.

    Args:
        seconds: How long the key is a sandbox's, at least.
        kafka: Bootstrap servers of Apache Kafka.
        store: URL of the route store.
        directory: An empty directory.
        deadline: Seconds in which it must be over.

    Raises:
        Late: If it is not over in time.
        RuntimeError: If a process has ended that should not have.
    """
    with Stage(kafka, store, directory, deadline=deadline) as stage:
        admin = AdminClient({"bootstrap.servers": kafka, "log_level": 2})
        out = output_topic(stage.topic)
        admin.create_topics([NewTopic(out, PARTITIONS, 1)])[out].result(30)
        baseline = [stage.worker(f"baseline-{number}", kind="transactional") for number in range(2)]
        producer = stage.producer(200, [_KEY])
        stage.ready(*baseline, producer)
        stage.more(_KEY, _SIDE)
        sandbox = stage.worker(_SANDBOX, sandbox=_SANDBOX, kind="transactional")
        manager = stage.manager("create", _SANDBOX, _KEY)
        stage.kill(baseline[0])
        baseline[0] = stage.again(baseline[0])
        stage.wait("the sandbox to be created", lambda: stage.ended(manager))
        stage.ready(sandbox, baseline[0])
        began = clock()
        stage.more(_KEY, _SIDE)
        stage.kill(sandbox)
        sandbox = stage.again(sandbox)
        stage.pause(baseline[1], max(SESSION, LEASE) + 2)
        stage.ready(sandbox)
        stage.sleep(max(0.0, began + seconds - clock()))
        manager = stage.manager("delete", _SANDBOX, _KEY)
        stage.wait("the sandbox to be deleted", lambda: stage.ended(manager), 90)
        stage.more(_KEY, _SIDE)
        stage.stop(producer, 60)
        return _settled(stage, kafka)


def _settled(stage: Stage, kafka: str, *, patience: float = 20.0, quiet: float = 2.0) -> Transacted:
    """
    Wait until something was made of every record, and check it.
    """
    made: list[Handled] = []
    consumer = Consumer(
        {
            "bootstrap.servers": kafka,
            "group.id": f"{stage.topic}.checker",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "log_level": 2,
        }
    )
    try:
        consumer.assign([TopicPartition(output_topic(stage.topic), partition, 0) for partition in range(PARTITIONS)])
        stage.journals.update()
        sent = stage.journals.of(Sent)
        since = clock()
        while True:
            message = consumer.poll(0.2)
            if message is not None and message.error() is None:
                made.append(_made(stage.topic, message.value().decode(), clock()))
                since = clock()
                continue
            stage.watch()
            missing = len({(each.partition, each.offset) for each in made}) < len(sent)
            if clock() - since > (patience if missing else quiet):
                break
    except Late:
        pass  # what is missing is lost
    finally:
        consumer.close()
    report = check(Logs(sent, made), stage.lives())
    return Transacted(report.messages, report.duplicates, report.lost, report.wrong_owner, report.problems)


def _made(topic: str, text: str, at: float) -> Handled:
    partition, offset, sandbox, worker, pid = text.split()
    own = "" if sandbox == "-" else sandbox
    return Handled(topic, int(partition), int(offset), None, worker, own, int(pid), "", at, at)
