"""
What every route store does, whatever keeps it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tenancy import ConfigurationError, RouteSourceError, RoutingKey
from tenancy.errors import ConflictError
from tenancy.routes import Handover, LiveRoutes, State
from tenancy.routes.stores import Head, Member, Put, RouteStore, StoreSource, put_handover, put_workload, table_of
from tests.docs.pages import ROOT

#: Names and values with which something that is not quoted goes wrong.
HOSTILE = (
    "'; DROP TABLE tenancy_meta; --",
    '"quoted" and \\ and %s and %(name)s and :name and ?',
    "Grüße, 世界, 👋, \u202e",
    "new\nline\ttab\r",
    "id",
    "document:id",
    " ",
)


class Place:
    """
    Where a test keeps its table.

    Args:
        url: Where other processes find it; None: nobody else does.
    """

    def __init__(self, url: str | None) -> None:
        self.url = url

    def open(self) -> RouteStore:
        """One more handle to the same table."""
        raise NotImplementedError

    def age(self, seconds: float) -> None:
        """Make all members as old as if they had been registered that much earlier."""
        raise NotImplementedError

    def tamper(self, **fields: Any) -> None:
        """Change the table's head behind everybody's back: ``version``, ``id``, ``schema``."""
        raise NotImplementedError


def eventually(condition: Callable[[], object], seconds: float = 5.0) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def race(store: RouteStore, rounds: int) -> list[int]:
    """Add one to a counter as often as there are rounds, against whoever does the same, and return the versions that were won."""
    won: list[int] = []
    while len(won) < rounds:
        version, document = store.snapshot().documents.get("counter", (0, {"value": 0}))
        try:
            won.append(store.write([Put("counter", {"value": document["value"] + 1}, version)]))
        except ConflictError:
            pass
    return won


RACER = """
import json, sys
from tenancy.routes.stores import open_store
from tests.routes.stores.contract import race
print(json.dumps(race(open_store(sys.argv[1]), int(sys.argv[2]))))
"""


@contextmanager
def watching(store: RouteStore) -> Iterator[threading.Event]:
    """Watch a store in a thread; the event is set when it calls, and the thread ends within a second."""
    woken, closing = threading.Event(), threading.Event()
    watcher = threading.Thread(target=store.watch, args=(woken.set, closing.is_set), daemon=True)
    watcher.start()
    time.sleep(0.5)  # it has no way to say that it listens
    woken.clear()
    try:
        yield woken
    finally:
        closing.set()
        watcher.join(1.0)
        assert not watcher.is_alive()


class StoreContract:
    """
    The contract; a subclass gives the fixture `place`, a new one for each test.
    """

    @pytest.fixture
    def store(self, place: Place) -> Iterator[RouteStore]:
        """A store with a table."""
        store = place.open()
        store.create(2.0)
        yield store
        store.close()

    @pytest.fixture
    def another(self, place: Place) -> Iterator[RouteStore]:
        """Another handle to the table of `store`, as another process would have it."""
        another = place.open()
        yield another
        another.close()

    def test_a_table_is_made_once(self, place: Place) -> None:
        """Whoever comes later finds the first one's table, with its id, its version and its lease."""
        store, late = place.open(), place.open()
        made = store.create(3)
        assert (made.version, made.lease, made.schema) == (0, 3.0, 1)
        store.write([put_workload("shop/orders")])
        found = late.create(7)
        assert found == made._replace(version=1) == store.create() == late.head()

    def test_a_table_is_made_once_by_many(self, place: Place) -> None:
        """Ten that make it at the same time all have the same one."""
        found: list[Head] = []

        def make() -> None:
            found.append(place.open().create(3))

        _together([make] * 10)
        assert len(found) == 10
        assert len(set(found)) == 1

    @pytest.mark.parametrize("lease", [0, -1, float("nan"), float("inf")])
    def test_a_lease_is_a_time(self, place: Place, lease: float) -> None:
        """A lease that is no time is refused before anything is made."""
        store = place.open()
        with pytest.raises(ConfigurationError, match="the lease is"):
            store.create(lease)
        with pytest.raises(RouteSourceError):
            store.head()

    def test_without_a_table(self, place: Place) -> None:
        """Reading and writing say that there is none, and which command makes one; they make nothing themselves."""
        store = place.open()
        for call in (store.head, store.snapshot, lambda: store.write([put_workload("shop/orders")])):
            for _ in range(2):
                with pytest.raises(RouteSourceError, match=r"there is no route table at .*`tenancy routes init`"):
                    call()

    def test_what_is_written_is_read(self, store: RouteStore, another: RouteStore) -> None:
        """Each document with the version at which it was written last; the table's version rises by one with each write."""
        assert store.snapshot() == (store.head(), {})
        assert store.write([Put("a", {"value": 1}), Put("b", {"value": [1, {"x": None}]})]) == 1
        assert another.write([Put("a", {"value": 2.5}, 1), Put("c", {})]) == 2
        assert dict(store.snapshot().documents) == {
            "a": (2, {"value": 2.5}),
            "b": (1, {"value": [1, {"x": None}]}),
            "c": (2, {}),
        }
        assert store.snapshot().head == store.head() == another.head()
        assert store.write([Put("a", None, 2), Put("b", None, 1), Put("never there", None)]) == 3
        assert dict(another.snapshot().documents) == {"c": (2, {})}
        assert store.write([Put("a", {"value": 3})]) == 4
        assert store.write([]) == 5

    def test_what_was_written_by_another_is_not_overwritten(self, store: RouteStore, another: RouteStore) -> None:
        """The error names the document and both versions, and nothing of the write is done."""
        store.write([Put("a", {"value": 1}), Put("b", {"value": 1})])
        another.write([Put("b", {"value": 2}, 1)])
        before = store.snapshot()
        for puts, said in (
            ([Put("a", {"value": 9}, 1), Put("b", {"value": 9}, 1)], "'b' is at version 2, where it was at version 1"),
            ([Put("a", None, 1), Put("b", None, 1)], "'b' is at version 2, where it was at version 1"),
            ([Put("new", {}), Put("a", {})], "'a' is at version 1, where it was not there"),
            ([Put("new", {}), Put("gone", {}, 1)], "'gone' is not there, where it was at version 1"),
            ([Put("gone", None, 7)], "'gone' is not there, where it was at version 7"),
        ):
            with pytest.raises(ConflictError, match=said):
                store.write(puts)
            assert another.snapshot() == before

    def test_a_document_is_written_once_at_a_time(self, store: RouteStore) -> None:
        """Two writes of one document in one call would leave it open which holds."""
        with pytest.raises(ValueError, match="'a' is to be written twice"):
            store.write([Put("a", {}), Put("a", {"value": 1})])
        assert store.head().version == 0

    def test_threads_that_race(self, place: Place, store: RouteStore) -> None:
        """Each version is won by exactly one, and no addition is lost."""
        won: list[int] = []
        _together([lambda: won.extend(race(place.open(), 15))] * 4)
        assert sorted(won) == list(range(1, 61))
        assert store.snapshot().documents["counter"] == (60, {"value": 60})

    def test_a_snapshot_is_of_one_moment(self, store: RouteStore, another: RouteStore) -> None:
        """What moves from one document to another is never seen twice, and never nowhere, while it moves."""
        padding = {f"padding {number}": "x" * 2000 for number in range(50)}
        store.write([Put("a", {"units": 1, **padding}), Put("z", {"units": 0, **padding})])
        done = threading.Event()
        moves = 0

        def move() -> None:
            nonlocal moves
            at = store.snapshot()
            while not done.is_set():
                units = {name: at.documents[name][1]["units"] for name in ("a", "z")}
                version = at.head.version
                store.write([Put(name, {"units": 1 - units[name], **padding}, version) for name in units])
                at = store.snapshot()
                moves += 1

        mover = threading.Thread(target=move)
        mover.start()
        seen = set()
        try:
            end = time.monotonic() + 1.5
            while time.monotonic() < end:
                read = another.snapshot()
                assert sum(document["units"] for _, document in read.documents.values()) == 1
                assert {version for version, _ in read.documents.values()} == {read.head.version}
                seen.add(read.head.version)
        finally:
            done.set()
            mover.join(10)
        assert moves > 10
        assert len(seen) > 3

    def test_a_watcher_is_woken_by_each_write(self, store: RouteStore, another: RouteStore) -> None:
        """Within a second, again and again, and by nothing else; it ends within a second, too."""
        with watching(store) as woken:
            for _ in range(3):
                assert not woken.wait(0.3)
                another.write([])
                assert woken.wait(1.0)
                time.sleep(0.2)
                woken.clear()

    def test_members_come_and_go(self, store: RouteStore, another: RouteStore, place: Place) -> None:
        """A member is there once however often it is registered, until it leaves or is not heard of for a day."""
        first = Member("shop/orders", "c-1", "orders", ("orders.v1", "orders.v2"), "0.1.0", store.head().id, 7)
        second = Member("shop/orders", "c-2", "orders")
        for _ in range(2):
            store.register(first)
        store.register(first._replace(version=8))
        another.register(second)
        another.register(Member("shop/notify", "c-1", "notify"))
        assert another.members("shop/orders") == [first._replace(version=8), second]
        store.unregister(first)
        store.unregister(first._replace(member="never there"))
        assert another.members("shop/orders") == [second]
        assert len(another.members("shop/notify")) == 1
        place.age(86300)
        assert store.members("shop/orders") == [second]
        place.age(200)
        assert store.members("shop/orders") == []
        store.register(first)
        assert store.members("shop/orders") == [first]
        assert store.head().version == 0

    def test_a_consumer_takes_back_its_own_registration_alone(self, store: RouteStore, another: RouteStore) -> None:
        """Not one of that name that is of another workload, group, sandbox or table; what it has seen since does not matter."""
        there = Member("shop/orders", "c-1", "orders", ("orders.v1",), "0.1.0", store.head().id, 7, "pr-1")
        another.register(there)
        for other in (
            there._replace(workload="shop/notify"),
            there._replace(member="c-2"),
            there._replace(group="notify"),
            there._replace(table="another"),
            there._replace(sandbox=""),
        ):
            store.unregister(other)
            assert store.members("shop/orders") == [there]
        store.unregister(there._replace(topics=(), library="0.2.0", version=9))
        assert another.members("shop/orders") == []

    @pytest.mark.parametrize("name", HOSTILE)
    def test_names_and_values_are_only_that(self, store: RouteStore, another: RouteStore, name: str) -> None:
        """Quotes, other alphabets and what looks like a statement come back as they were."""
        document = {name: [name, {"\u0000": "\u0000", "\ud800": 1e300}]}
        assert store.write([Put(name, document), Put(name + "2", {})]) == 1
        assert another.snapshot().documents[name] == (1, document)
        with pytest.raises(ConflictError):
            store.write([Put(name, {})])
        store.register(Member(name, name, name, (name,)))
        assert another.members(name) == [Member(name, name, name, (name,))]
        store.unregister(Member(name, name, name, ("other",), "2", "", 7))
        assert another.members(name) == []
        assert store.write([Put(name, None, 1)]) == 2
        assert set(another.snapshot().documents) == {name + "2"}

    def test_a_large_document(self, store: RouteStore, another: RouteStore) -> None:
        """One of a million characters is kept whole."""
        document = {"text": "ä" * 1_000_000}
        store.write([Put("large", document)])
        assert another.snapshot().documents["large"] == (1, document)

    def test_a_large_table(self, store: RouteStore, another: RouteStore) -> None:
        """Two thousand documents, written in parts, are one table."""
        rows = [Handover("shop/orders", RoutingKey(f"pr-{number}"), State.ACTIVE, 1, f"pr-{number}") for number in range(2000)]
        for start in range(0, len(rows), 500):
            store.write([put_handover(row) for row in rows[start : start + 500]])
        assert len(table_of(another.snapshot(), origin="here")) == 2000

    @pytest.mark.parametrize("schema", [2, 17])
    def test_a_table_of_a_later_form(self, store: RouteStore, another: RouteStore, place: Place, schema: int) -> None:
        """It is not taken for what it is not, and nothing is written into it."""
        place.tamper(schema=schema)
        assert another.head().schema == schema
        with pytest.raises(RouteSourceError, match=f"documents of form {schema}.*install a later version"):
            StoreSource(another).read()
        with pytest.raises(RouteSourceError, match=f"documents of form {schema}.*nothing was written"):
            another.write([put_workload("shop/orders")])
        assert another.head().version == 0
        assert another.create().schema == schema

    def test_a_closed_store_is_opened_by_its_next_use(self, store: RouteStore) -> None:
        """What is closed gives back its connections, and nothing else."""
        store.close()
        store.close()
        assert store.write([put_workload("shop/orders")]) == 1

    def test_live_routes_follow(self, store: RouteStore, another: RouteStore) -> None:
        """A write is seen at once, the view stays fresh without writes, and the table has what was written."""
        live = LiveRoutes(StoreSource(another), interval=0.05)
        try:
            assert live.wait_synced(5).lease == 2.0
            time.sleep(0.5)
            row = Handover("shop/orders", RoutingKey("pr-42"), State.ACTIVE, 1, "pr-42")
            store.write([put_workload("shop/notify"), put_handover(row)])
            eventually(lambda: live.table.version == 1, 0.5)  # sooner than a third of the lease
            assert live.table.workloads == {"shop/orders", "shop/notify"}
            assert live.table.handover("shop/orders", RoutingKey("pr-42")) == row._replace(version=1)
            end = time.monotonic() + 2.5
            while time.monotonic() < end:
                view = live.view()
                assert view is not None
                assert view.fresh()
                time.sleep(0.02)
        finally:
            live.close()

    @pytest.mark.parametrize("tampered", [{"version": 2}, {"id": "another"}])
    def test_a_table_that_was_put_back_is_not_acted_on(self, place: Place, tampered: dict[str, Any]) -> None:
        """A lower version or another id is a failed read: the view that was there grows stale, and stays so."""
        store = place.open()
        store.create(0.6)
        for _ in range(3):
            store.write([])
        live = LiveRoutes(StoreSource(place.open()), interval=0.05)
        try:
            assert live.wait_synced(5).version == 3
            place.tamper(**tampered)
            live.refresh()
            with pytest.raises(RouteSourceError, match="it was put back, or is another one"):
                raise live._error or AssertionError("it was read")
            view = live.view()
            assert view is not None
            eventually(lambda: not live.view().fresh(), 1.0)  # type: ignore[union-attr]
            time.sleep(0.4)
            assert not live.view().fresh()  # type: ignore[union-attr]
            assert live.table.version == 3
        finally:
            live.close()


class ServerContract(StoreContract):
    """
    What a store does besides that other processes have, too.
    """

    def test_processes_that_race(self, place: Place, store: RouteStore) -> None:
        """Each version is won by exactly one process, and no addition is lost."""
        assert place.url is not None
        command = [sys.executable, "-c", RACER, place.url, "20"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        racers = [subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) for _ in range(3)]
        won: list[int] = []
        for racer in racers:
            out, _ = racer.communicate(timeout=60)
            assert racer.returncode == 0
            won += json.loads(out)
        assert sorted(won) == list(range(1, 61))
        assert store.snapshot().documents["counter"] == (60, {"value": 60})

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
    def test_a_forked_child_has_connections_of_its_own(self, store: RouteStore, another: RouteStore) -> None:
        """Parent and children use one store at the same time, and each has its own answers."""
        store.head()
        pids = []
        for number in range(3):
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    for round_ in range(20):
                        store.write([Put(f"{number}-{round_}", {"of": number})])
                        mine = {n for n, (_, document) in store.snapshot().documents.items() if document["of"] == number}
                        assert mine == {f"{number}-{past}" for past in range(round_ + 1)}
                    status = 0
                finally:
                    os._exit(status)
            pids.append(pid)
        for round_ in range(20):
            store.write([Put(f"parent-{round_}", {"of": "parent"})])
            assert store.snapshot().documents[f"parent-{round_}"]
        assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0, 0, 0]
        assert another.head().version == 80


def _together(calls: list[Callable[[], object]]) -> None:
    failed: list[BaseException] = []

    def guarded(call: Callable[[], object]) -> None:
        try:
            call()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=guarded, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failed, failed
