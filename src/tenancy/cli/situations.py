"""
How sandboxes are shown: as JSON, and as tables for people.
"""

from __future__ import annotations

from typing import Any

from rich.padding import Padding
from rich.table import Table

from ..routes import Handover, State
from ..routes.stores import RouteStore, table_of
from .drawing import _heading, _pairs, _text
from .explanation import cuts
from .inspection.report import counted
from .queues import Consuming
from .routes import _console, _lines, _print, _print_json, _row
from .situation import Situation
from .topics import TopicState

__all__ = ["document", "end", "partitions_of", "print_rows", "print_situations", "situation_document"]


def document(row: Handover) -> dict[str, Any]:
    """
    Return what the route store has of a key, for JSON.
    """
    return {"workload": row.workload, **_row(row)}


def situation_document(situation: Situation) -> dict[str, Any]:
    """
    Return where a key is, for JSON.
    """
    return {
        **document(situation.row),
        "state_in_words": situation.state_in_words,
        "kafka": [vars(reading) for reading in situation.readings],
        "rabbitmq": [vars(one) for one in situation.consumings],
        "findings": situation.findings,
        "next": situation.next,
    }


def partitions_of(store: RouteStore, rows: list[Handover]) -> list[dict[str, Any]]:
    """
    Return the partitions of databases that are noted for the keys of lives, for JSON.
    """
    keys = {row.key for row in rows}
    table = table_of(store.snapshot(), origin=store.name)
    return [partition._asdict() for partition in sorted(table.partitions()) if partition.key in keys]


def end(name: str, store: RouteStore, rows: list[Handover], as_json: bool) -> None:
    """
    Print what a command has done.
    """
    if as_json:
        keys = [document(row) for row in rows]
        return _print_json({"store": store.name, "sandbox": name, "keys": keys, "partitions": partitions_of(store, rows)})
    if rows:
        print_rows(store, rows, "")


def print_rows(store: RouteStore, rows: list[Handover], none: str) -> None:
    """
    Print what the route store has of keys.
    """
    console, drawn = _console()
    console.print(_text(store.name))
    if not rows:
        console.print(_text(f"  {none}"))
    for name in dict.fromkeys(row.sandbox for row in rows):
        console.print()
        _heading(console, name)
        shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for title in ("workload", "key", "state", "life", "records of its own"):
            shown.add_column(title, overflow="fold")
        for row in rows:
            if row.sandbox == name:
                told = "\n".join((*cuts(row), *_queues(row))) or ("none yet" if row.groups else "reads no Kafka")
                shown.add_row(*map(_text, (row.workload, row.key, row.state.value, str(row.epoch))), _lines(told))
        console.print(Padding(shown, (0, 0, 0, 2)))
    _print(drawn)


def print_situations(
    store: RouteStore,
    situations: list[Situation],
    topics: list[TopicState],
    leftovers: list[str],
    partitions: list[dict[str, Any]],
) -> None:
    """
    Print where keys and their data are, where the topics of sandboxes' own are, and what is left of creates that were killed.
    """
    console, drawn = _console()
    console.print(_text(store.name))
    if not situations:
        console.print(_text("  no sandbox has a key"))
    for situation in situations:
        row = situation.row
        console.print()
        _heading(console, f"{row.sandbox}: {row.key} on {row.workload}")
        rows = [("state", f"{row.state.value}, life {row.epoch}: {situation.state_in_words}")]
        told = "\n".join(cuts(row))
        if told:
            rows.append(("cuts", told))
        if row.claimant:
            rows.append(("gap reader", row.claimant))
        for reading in situation.readings:
            left = "begins nowhere yet" if reading.left is None else f"{reading.left} records left, those of other keys included"
            rows.append(("group", f"{reading.sandbox_group}: {left}; members: {', '.join(reading.members) or 'none'}"))
        rows += [("queue", _told(one)) for one in situation.consumings]
        asked = situation.readings or situation.consumings or row.state is State.NONE
        rows += [("wrong" if asked else "note", finding) for finding in situation.findings]
        rows.append(("next", situation.next))
        _pairs(console, rows)
    for topic in topics:
        console.print()
        _heading(console, f"{topic.sandbox}: {topic.topic}, a topic of its own in the place of {topic.base}")
        there = "" if topic.partitions is None else f", {counted(topic.partitions, 'partition')}"
        _pairs(console, [("state", f"{topic.state}{there}"), *(("wrong", finding) for finding in topic.findings)])
    for partition in partitions:
        console.print()
        _heading(console, f"{partition['key']}: its partition of {partition['database']}")
        place = "dropped" if partition["dropped"] else ", ".join(partition["place"])
        _pairs(console, [("state", place), *([("expires", partition["expires"])] if partition["expires"] else [])])
    for leftover in leftovers:
        console.print()
        _pairs(console, [("left", leftover)])
    _print(drawn)


def _queues(row: Handover) -> list[str]:
    """
    Return, a line for each, which queues are a sandbox's.
    """
    if row.state is State.NONE:
        return []
    from ..messaging.rabbitmq.names import names_of

    by = {base: f" by exchange {exchange}" if exchange else "" for base, exchange in sorted(row.queues.items())}
    return [f"{base}: all that has the key{how}, in {names_of(base, row.key, row.epoch).queue}" for base, how in by.items()]


def _told(one: Consuming) -> str:
    there = "is not there" if one.ready is None else f"{counted(one.ready, 'message')} ready, {counted(one.consumers, 'consumer')}"
    readers = f"; registered: {', '.join(one.readers) or 'none'}"
    dead = f"; {counted(one.dead, 'message')} rejected" if one.dead else ""
    return f"{one.sandbox_queue}, in the place of {one.queue}: {there}{readers}{dead}"
