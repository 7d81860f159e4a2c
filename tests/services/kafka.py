"""
Apache Kafka from Maven Central, one node that is broker and controller; and, for who asks for it, librdkafka's mock of a cluster.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
import re
import shutil
import struct
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .base import Image, Missing, ask, free_port
from .local import Local

__all__ = ["Kafka", "Mock", "mock"]

_DIST = Path(__file__).with_name("kafka_dist")
_GROUP, _TRANSACTION = 0, 1

# One node can hold one replica; short intervals make a killed broker, a dead member or a lost transaction a matter of seconds.
_SETTINGS = {
    "node.id": "1",
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    "auto.create.topics.enable": "true",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "1",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "500",
    "group.consumer.min.heartbeat.interval.ms": "200",
    "group.consumer.heartbeat.interval.ms": "500",
    "group.consumer.min.session.timeout.ms": "1000",
    "group.consumer.session.timeout.ms": "6000",
    # After a crash the broker is let in again when the session of its earlier life is over.
    "broker.heartbeat.interval.ms": "250",
    "broker.session.timeout.ms": "4000",
    "log.cleaner.dedupe.buffer.size": "2097152",
}
# Quick to start rather than quick to run.
_JVM = ("-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "-Djava.awt.headless=true")


class Kafka(Local):
    """
    One Kafka node in KRaft mode; topics are created when they are first used.

    Args:
        java: Path of the Java that runs it.
        jars: The directory of its class path.
    """

    name = "kafka"
    variable = "TENANCY_TEST_KAFKA"
    hint = "bootstrap servers such as 127.0.0.1:9092"
    packages = ("openjdk-17-jre-headless|openjdk-21-jre-headless", "maven")

    def __init__(self, java: str, jars: Path) -> None:
        super().__init__()
        self._java = java
        self._jars = jars
        self._controller_port = free_port()

    @classmethod
    def locate(cls) -> Kafka:
        return cls(_java(), _class_path())

    @staticmethod
    def image() -> Image:
        # Inside the container the broker reaches itself by its second address: the published one leads nowhere from there.
        settings = {
            **_SETTINGS,
            "controller.quorum.voters": "1@localhost:9093",
            "listeners": "CLIENT://:9092,CONTROLLER://:9093,INTERNAL://:19092",
            "advertised.listeners": "CLIENT://127.0.0.1:{port},INTERNAL://localhost:19092",
            "listener.security.protocol.map": "CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT,INTERNAL:PLAINTEXT",
            "inter.broker.listener.name": "INTERNAL",
        }
        environment = {f"KAFKA_{key.replace('.', '_').upper()}": text for key, text in settings.items()}
        return Image(f"apache/kafka:{version()}", 9092, {**environment, "KAFKA_HEAP_OPTS": "-Xmx512m"})

    @staticmethod
    def url(host: str, port: int) -> str:
        return f"{host}:{port}"

    @staticmethod
    def answers(host: str, port: int) -> bool:
        # Asking for the coordinators makes the broker create their topics; the first test to join a group would wait 3 s for it.
        return all(_coordinates(host, port, kind) for kind in (_GROUP, _TRANSACTION))

    def prepare(self) -> None:
        settings = {
            **_SETTINGS,
            "controller.quorum.voters": f"1@127.0.0.1:{self._controller_port}",
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{self._controller_port}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self.port}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": str(self.directory / "data"),
        }
        self._properties.write_text("".join(f"{key}={text}\n" for key, text in settings.items()))
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        # A leading hyphen would be read as an option.
        self.run(self._run_class("kafka.tools.StorageTool", "format", "-t", cluster.replace("-", "_"), "-c", str(self._properties)))

    def command(self) -> list[str]:
        return self._run_class("kafka.Kafka", str(self._properties))

    @property
    def _properties(self) -> Path:
        return self.directory / "server.properties"

    def _run_class(self, name: str, *arguments: str) -> list[str]:
        logging = f"-Dlog4j2.configurationFile={_DIST / 'log4j2.properties'}"
        return [self._java, *_JVM, logging, "-cp", f"{self._jars}/*", name, *arguments]


def _coordinates(host: str, port: int, kind: int) -> bool:
    key = b"tests"
    # FindCoordinator, version 1, without a client id; the error code stands behind length, correlation id and throttle time.
    question = struct.pack(">hhihh", 10, 1, 1, -1, len(key)) + key + struct.pack(">b", kind)
    answer = ask(host, port, struct.pack(">i", len(question)) + question, 14)
    return len(answer) == 14 and struct.unpack(">h", answer[12:])[0] == 0


def version() -> str:
    """
    Return the version of Kafka that the tests use, as the POM says.
    """
    found = re.search(r"<kafka\.version>(.*?)</kafka\.version>", (_DIST / "pom.xml").read_text("utf-8"))
    assert found
    return found[1]


def _java() -> str:
    """
    Return the path of a Java that runs Kafka 4: 17 or later.
    """
    tried = []
    candidates = [shutil.which("java")]
    if home := os.environ.get("JAVA_HOME"):
        candidates.insert(0, str(Path(home, "bin", "java")))
    candidates += map(str, Path("/usr/lib/jvm").glob("*/bin/java"))
    for java in candidates:
        if java is None or not os.access(java, os.X_OK):
            continue
        done = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)
        found = re.search(r'version "(\d+)', done.stderr)
        if found and int(found[1]) >= 17:
            return java
        tried.append(java)
    raise Missing(f"Java 17 or later is not here{' (too old: ' + ', '.join(tried) + ')' if tried else ''}")


def _class_path() -> Path:
    """
    Return the directory of Kafka's jars, copied from Maven Central when it is asked for the first time.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "request-tenancy"
    pom = _DIST / "pom.xml"
    jars = cache / f"kafka-{version()}-{hashlib.sha256(pom.read_bytes()).hexdigest()[:8]}"
    if jars.is_dir():
        return jars
    maven = shutil.which("mvn")
    if maven is None:
        raise Missing("there is no mvn on PATH to get Kafka with")
    cache.mkdir(parents=True, exist_ok=True)
    # Two runs at once: the second waits, and finds what the first has brought. The jars appear under their name only when complete.
    with (cache / "kafka.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if jars.is_dir():
            return jars
        with tempfile.TemporaryDirectory(prefix="kafka-", dir=cache) as temporary:
            target = Path(temporary, "jars")
            command = [maven, "-B", "-ntp", "-q", "-f", str(pom), "dependency:copy-dependencies", f"-DoutputDirectory={target}"]
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=temporary, check=False)
            if done.returncode or not target.is_dir():
                raise Missing(f"mvn could not get Kafka {version()} ({(done.stdout or done.stderr).strip()[-300:]})")
            target.replace(jars)
    return jars


@dataclass(frozen=True)
class Mock:
    """
    A mock cluster that lives in this process.

    Args:
        address: Its bootstrap servers.
    """

    address: str


@contextmanager
def mock(brokers: int = 1) -> Iterator[Mock]:
    """
    Run librdkafka's mock of a Kafka cluster in this process, for a demonstration where no Kafka can be had. It never replaces one in tests.

    Args:
        brokers: How many brokers it has.
    """
    from confluent_kafka import Producer

    # Level 4 leaves out the notice, on standard error, that this is a mock.
    holder = Producer({"bootstrap.servers": "mock:1", "test.mock.num.brokers": brokers, "log_level": 4})
    try:
        known = holder.list_topics(timeout=10).brokers.values()
        yield Mock(",".join(f"{broker.host}:{broker.port}" for broker in known))
    finally:
        del holder
