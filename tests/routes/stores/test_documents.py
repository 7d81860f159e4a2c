"""
The documents of a route store: every row comes back as it was, and what is none is told.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenancy import ConfigurationError, RouteSourceError, RoutingKey
from tenancy.routes import Epoch, Handover, OwnTopic, State, open_routes
from tenancy.routes.stores import (
    Head,
    Put,
    Snapshot,
    forget_topic,
    handover_name,
    open_store,
    put_handover,
    put_topic,
    put_workload,
    table_of,
)
from tenancy.routes.stores._urls import hidden, without_secrets

LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True).filter(
    lambda name: name not in ("baseline", "default", "none", "null", "undefined", "public")
)
TEXT = st.text(max_size=12)
CUTS = st.dictionaries(TEXT, st.lists(st.integers(0, 2**63), max_size=5).map(tuple), max_size=3)
EPOCHS = st.builds(Epoch, st.integers(0, 2**40), TEXT, CUTS, st.none() | CUTS, st.dictionaries(TEXT, TEXT, max_size=3))
ROWS = st.builds(
    Handover,
    workload=st.tuples(LABEL, LABEL).map("/".join),
    key=LABEL.map(RoutingKey),
    state=st.sampled_from(State),
    epoch=st.integers(0, 2**40),
    sandbox=TEXT,
    generation=st.integers(0, 2**40),
    epochs=st.lists(EPOCHS, max_size=3).map(tuple),
    version=st.integers(1, 2**60),
    groups=st.dictionaries(TEXT, st.lists(TEXT, max_size=3).map(tuple), max_size=3),
    claimant=TEXT,
    progress=st.dictionaries(TEXT, CUTS, max_size=2),
    late=st.sampled_from(["baseline", "drop"]),
)
HEAD = Head("t", 9, 2.0)


def read(*puts: Put, head: Head = HEAD, version: int = 1) -> Any:
    """The table of a store that holds what was put."""
    documents = {put.name: (put.expected or version, json.loads(json.dumps(put.document))) for put in puts}
    return table_of(Snapshot(head, documents), origin="the store")


@given(ROWS)
def test_a_row_comes_back_as_it_was(row: Handover) -> None:
    """Cuts, epochs without an end, groups and progress are the same after they were JSON, and so is the version."""
    put = put_handover(row)
    assert (put.name, put.expected) == (f"handover/{row.workload}/{row.key}", row.version)
    assert put.name == handover_name(row.workload, row.key)
    table = read(put)
    assert table.handover(row.workload, row.key) == row
    assert list(table.handovers()) == [row]


@given(st.lists(ROWS, max_size=5, unique_by=lambda row: (row.workload, row.key)), st.sets(st.tuples(LABEL, LABEL).map("/".join)))
def test_a_table_is_all_of_its_documents(rows: list[Handover], workloads: set[str]) -> None:
    """Each row and each workload, and the head's id, version and lease; documents of other kinds are left out."""
    table = read(*map(put_handover, rows), *map(put_workload, sorted(workloads)), Put("something/x", {"of": "later"}))
    assert sorted(table.handovers(), key=str) == sorted(rows, key=str)
    assert table.workloads == workloads | {row.workload for row in rows}
    assert (table.id, table.version, table.lease) == ("t", 9, 2.0)


def test_a_document_that_is_none_is_named() -> None:
    """The error says which document of which store, and what is wrong with it."""
    good = put_handover(
        Handover("shop/orders", RoutingKey("pr-42"), State.ACTIVE, 1, "pr-42", epochs=(Epoch(1, "pr-42", {"t": (1,)}),))
    )
    assert good.document is not None
    spoilt: list[dict[str, Any]] = [
        {name: value for name, value in good.document.items() if name != left} for left in good.document
    ]
    spoilt += [
        {**good.document, **change}
        for change in (
            {"key": "PR 42"},
            {"state": "asleep"},
            {"workload": "orders"},
            {"epoch": "one"},
            {"epochs": [{}]},
            {"epochs": 7},
            {"groups": ["a"]},
            {"progress": {"orders": {"t": "ab"}}},
            {"progress": {"orders": [1]}},
        )
    ]
    for document in spoilt:
        with pytest.raises(
            RouteSourceError, match=r"^the store: the document 'handover/shop/orders/pr-42' is not what it should be"
        ):
            read(Put(good.name, document))
    with pytest.raises(RouteSourceError, match="'workload/x' is not what it should be"):
        read(Put("workload/x", {"workload": "x"}))


@pytest.mark.parametrize(("schema", "said"), [(2, "install a later version"), (-1, "does not read any more")])
def test_a_form_that_is_not_known(schema: int, said: str) -> None:
    """A table of a later form, or of one long past, is not read."""
    with pytest.raises(RouteSourceError, match=said):
        read(head=HEAD._replace(schema=schema))


def test_the_form_before_is_read() -> None:
    """Readers understand the form before theirs, so that a fleet need not be replaced at once."""
    assert read(put_workload("shop/orders"), head=HEAD._replace(schema=0)).workloads == {"shop/orders"}


@pytest.mark.parametrize("url", ["postgres://user:s/e:c@ret@host/x", "mysql://host/x?password=s/e:c@ret", "rediss"])
def test_a_url_that_is_no_store(url: str) -> None:
    """The error names those that are, and no password."""
    for opened in (open_store, open_routes):
        with pytest.raises(ConfigurationError, match=r"use a URL whose scheme is one of .*sqlite") as caught:
            opened(url)
        assert "ret" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["redis://:s%40cret@host/0", "postgresql://user:s%40cret@host/x", "redis://host?password=s%40cret&db=1"]
)
def test_what_a_driver_says_is_told_without_the_password(url: str) -> None:
    """As it stands in the URL, and as the driver understood it; and in one line."""
    said = f"cannot connect to {url}\n  with 's@cret'"
    assert without_secrets(said, url) == " ".join(said.split()).replace("s%40cret", "***").replace("s@cret", "***")
    assert "cret" not in hidden(url)


@given(st.builds(OwnTopic, TEXT, TEXT, TEXT, st.integers(0, 2**48), TEXT, st.booleans(), st.integers(1, 2**60)))
def test_a_topic_of_a_sandboxs_own_comes_back_as_it_was(topic: OwnTopic) -> None:
    """All that is known of it, and its version; and it can be forgotten at that."""
    table = read(put_topic(topic))
    assert table.own_topic(topic.name) == topic
    assert [*table.own_topics()] == [*table.own_topics(topic.sandbox)] == [topic]
    assert [*table.own_topics(topic.sandbox + "x")] == []
    assert forget_topic(topic) == (f"topic/{topic.name}", None, topic.version)
    assert read(put_workload("shop/orders")).own_topic(topic.name) is None
