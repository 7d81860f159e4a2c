"""
``tenancy routes``, run as people do, on a real table.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from tenancy import RoutingKey
from tenancy.cli.explanation import explain
from tenancy.routes import Epoch, Handover, Position, Reader, RouteTable, State, decide_record
from tenancy.routes.identity import Identity
from tenancy.routes.stores import open_store, put_handover
from tests.cli.support import Ran, routes_file, run
from tests.docs.pages import ROOT, blocks

LIVES = (
    Epoch(1, "team-a", {"orders.v1": (10, 3)}, {"orders.v1": (90, 12)}),
    Epoch(2, "pr-42", {"orders.v1": (120, 44)}),
)
ACTIVE = Handover("shop/orders", RoutingKey("pr-42"), State.ACTIVE, 2, "pr-42", 5, LIVES)
CREATING = Handover("shop/orders", RoutingKey("pr-43"), State.CREATING, 1, "pr-43")
RETIRED = Handover(
    "shop/orders", RoutingKey("pr-44"), State.NONE, 1, "pr-44", 1, (LIVES[0]._replace(sandbox="pr-44"),), late="drop"
)


class Shell:
    """
    A folder with a table in it, and commands about it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"sqlite:///{folder}/routes.db"

    def __call__(self, *arguments: str, **variables: str) -> Ran:
        command = (sys.executable, "-m", "tenancy.cli", "routes", *arguments)
        return run(*command, cwd=self.folder, variables={"TENANCY_ROUTES": self.url, "COLUMNS": "160", **variables})

    def json(self, *arguments: str) -> dict[str, Any]:
        ran = self(*arguments, "--json")
        assert ran.status == 0, ran.err
        return ran.report


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@pytest.fixture
def lived(shell: Shell) -> Shell:
    """A table that has seen something."""
    assert shell("init", "--lease", "3").status == 0
    assert shell("declare", "shop/orders", "shop/notify").status == 0
    open_store(shell.url).write([put_handover(row) for row in (ACTIVE, CREATING, RETIRED)])
    return shell


def test_a_table_is_made_once(shell: Shell) -> None:
    """The second time says what was there already; its lease stays."""
    made = shell.json("init", "--lease", "2.5")
    assert (made["version"], made["lease"], made["schema"]) == (0, 2.5, 1)
    again = shell("init")
    assert again.status == 0
    assert (
        again.out
        == f"the route store {shell.url}: table {made['id']}, version 0, lease 2.5 s; it was there, so the lease stays 2.5 s\n"
    )
    assert shell.json("init") == made
    bad = shell("init", "--lease", "0")
    assert (bad.status, "the lease is 0.0" in bad.err) == (2, True)


def test_workloads_are_declared_once(shell: Shell) -> None:
    """Those that are known already stay; a name that is none is refused, and nothing is written."""
    missing = shell("declare", "shop/orders")
    assert (missing.status, "tenancy routes init" in missing.err) == (1, True)
    shell("init")
    assert shell("declare", "shop/orders", "shop/orders").out == "shop/orders: declared\n"
    assert shell("declare", "shop/notify", "shop/orders").out == "shop/notify: declared\nshop/orders: known already\n"
    assert shell.json("declare", "shop/notify") == {"store": f"the route store {shell.url}", "declared": []}
    assert open_store(shell.url).head().version == 2
    refused = shell("declare", "shop/pricing", "Orders")
    assert (refused.status, "write namespace/name in lower case" in refused.err) == (2, True)
    assert [entry["workload"] for entry in shell.json("list")["workloads"]] == ["shop/notify", "shop/orders"]


def test_a_list_has_all_that_the_table_has(lived: Shell) -> None:
    """Workloads, keys, state, sandbox, life and cuts; with --workload those of one."""
    listed = lived.json("list")
    assert (listed["version"], listed["lease"], len(listed["id"])) == (2, 3.0, 16)
    notify, orders = listed["workloads"]
    assert (notify, orders["workload"]) == ({"workload": "shop/notify", "keys": []}, "shop/orders")
    assert [(row["key"], row["state"], row["sandbox"], row["epoch"]) for row in orders["keys"]] == [
        ("pr-42", "active", "pr-42", 2),
        ("pr-43", "creating", "pr-43", 1),
        ("pr-44", "none", "pr-44", 1),
    ]
    assert orders["keys"][0]["epochs"][1]["start"] == {"orders.v1": [120, 44]}
    text = lived("list", "--workload", "shop/orders").out
    assert "version 2, lease 3 s, 2 workloads" in text
    assert "shop/notify" not in text
    rows = [" ".join(line.split()) for line in text.splitlines()]
    assert "pr-42 active pr-42 2 life 1, team-a: orders.v1 from 0:10, 1:3 up to 0:90, 1:12" in rows
    assert "life 2, pr-42: orders.v1 from 0:120, 1:44" in rows
    assert "pr-43 creating pr-43 1 none yet" in rows
    assert "no key forks it" in lived("list").out
    unknown = lived("list", "--workload", "shop/pricing")
    assert (unknown.status, "tenancy routes declare shop/pricing" in unknown.err) == (1, True)


def test_a_source_without_cuts_is_listed_and_explained(lived: Shell) -> None:
    """A file has routes and no positions, and says that hand-over is not exact."""
    url = routes_file(lived.folder)
    text = lived("list", "--store", url).out
    assert "no lease: hand-over is not exact" in text
    assert "pr-42 active pr-42 1 all that have the key" in [" ".join(line.split()) for line in text.splitlines()]
    report = lived.json("explain", "--store", url, "--workload", "shop/orders", "--key", "pr-42")
    assert (report["owner"], report["state"], report["cuts"]) == ("pr-42", None, [])
    for command in (("init",), ("declare", "shop/x")):
        refused = lived(*command, "--store", url)
        assert (refused.status, "is no route store" in refused.err) == (2, True)


def test_an_explanation_names_the_owner_and_the_reason(lived: Shell) -> None:
    """In words first, then state, table, cuts, and what each reader does."""
    text = lived(
        "explain", "--workload", "shop/orders", "--key", "pr-42", "--topic", "orders.v1", "--partition", "0", "--offset", "130"
    )
    assert text.status == 0
    rows = [" ".join(line.split()) for line in text.out.splitlines()]
    assert rows == [
        "shop/orders, key pr-42, orders.v1 [0] at 130: sandbox pr-42's",
        "why pr-42 forks shop/orders in sandbox pr-42 at this position",
        "state active, life 2: the sandbox has it",
        rows[3],
        "cuts life 1, team-a: orders.v1 from 0:10, 1:3 up to 0:90, 1:12",
        "life 2, pr-42: orders.v1 from 0:120, 1:44",
        "baseline skip: pr-42 forks shop/orders in sandbox pr-42 at this position, not the baseline",
        "sandbox team-a skip: pr-42 does not fork shop/orders in sandbox team-a",
        "sandbox pr-42 own: pr-42 forks shop/orders in sandbox pr-42 at this position",
    ]
    assert rows[3].startswith("table the route store sqlite:")


@pytest.mark.parametrize(
    ("key", "offset", "owner", "words"),
    [
        ("pr-42", 5, "baseline", "the baseline's"),
        ("pr-42", 50, "team-a", "sandbox team-a's in life 1 of the key, which is over"),
        ("pr-42", 100, "baseline", "the baseline's"),
        ("pr-42", 120, "pr-42", "sandbox pr-42's"),
        ("pr-43", 1, None, "set aside until it can be said whose it is"),
        ("pr-44", 5, "baseline", "the baseline's"),
        ("pr-44", 95, None, "nobody's"),
        ("pr-99", 1, "baseline", "the baseline's"),
        (None, 1, "baseline", "the baseline's"),
    ],
)
def test_an_owner_is_who_consumers_say(key: str | None, offset: int, owner: str | None, words: str) -> None:
    """The explanation asks the decision of the consumers themselves, for each that could have the record."""
    table = RouteTable(workloads=["shop/orders"], handovers=[ACTIVE, CREATING, RETIRED], lease=3.0, id="t")
    position = Position("orders.v1", 0, offset)
    routing_key = None if key is None else RoutingKey(key)
    told = explain(table, "shop/orders", routing_key, position)
    assert (told.owner, told.owner_in_words) == (owner, words)
    verdict = decide_record(routing_key, position, Reader(Identity("shop/orders", None)), table, fresh=True)
    assert (told.readers[0].action, told.readers[0].reason) == (verdict.action.value, verdict.reason)


def test_one_reader_is_asked(lived: Shell) -> None:
    """With --as only that one's answer is told; the owner stays who it is. A request has no position."""
    asked = ("explain", "--workload", "shop/orders", "--key", "pr-42")
    everybody = lived.json(*asked)
    assert [(answer["reader"], answer["action"]) for answer in everybody["readers"]] == [
        ("baseline", "skip"),
        ("sandbox team-a", "skip"),
        ("sandbox pr-42", "own"),
    ]
    for reader, action in (("baseline", "skip"), ("pr-42", "own"), ("other", "skip")):
        report = lived.json(*asked, "--as", reader)
        assert [answer["action"] for answer in report["readers"]] == [action]
        assert report["owner"] == "pr-42"


def test_what_is_asked_wrongly(lived: Shell) -> None:
    """Half a position, a key that is none, a workload that nobody knows, no table: each says what to do."""
    asked = ("explain", "--workload", "shop/orders")
    for arguments, status, said in (
        ((*asked, "--key", "pr-42", "--topic", "t"), 2, "give all three, or none"),
        ((*asked, "--key", "PR 42"), 2, "PR 42"),
        ((*asked, "--key", "pr-42", "--topic", "t", "--partition", "0", "--offset", "-1"), 2, "-1"),
        (("explain", "--workload", "shop/ordes", "--key", "pr-42"), 1, "did you mean shop/orders?"),
        (("explain", "--workload", "orders"), 2, "write namespace/name"),
    ):
        ran = lived(*arguments)
        assert (ran.status, said in ran.err, ran.out) == (status, True, ""), ran.err
    nowhere = lived("list", TENANCY_ROUTES="")
    assert (nowhere.status, "no route table is named" in nowhere.err) == (2, True)


def test_passwords_are_not_told(lived: Shell) -> None:
    """Neither that of a store that cannot be reached nor that of one that does not exist."""
    for url, status in (("redis://user:s3cret@127.0.0.1:1/0", 1), ("postgres://user:s3cret@127.0.0.1/x", 2)):
        for command in (("list",), ("init",), ("list", "--json")):
            ran = lived(*command, "--store", url)
            assert ran.status == status
            assert "s3cret" not in ran.out + ran.err
            assert "Traceback" not in ran.err


def test_json_is_json_in_any_locale(lived: Shell) -> None:
    """Nothing else stands on standard output."""
    ran = lived("list", "--json", LC_ALL="C", PYTHONUTF8="0")
    assert json.loads(ran.out)["version"] == 2


def test_what_the_page_shows_is_what_is_printed(tmp_path: Path) -> None:
    """The commands of the page about route stores, one after the other, print what stands under them, but for the table's id."""
    (block,) = (text for text in blocks(ROOT / "docs" / "how-to" / "route-store.md", "console") if "$ tenancy routes" in text)
    variables: dict[str, str] = {}
    ran = []
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        if command.startswith("export "):
            variables |= [command.removeprefix("export ").split("=", 1)]
            continue
        done = run(sys.executable, "-m", "tenancy.cli", *shlex.split(command)[1:], cwd=tmp_path, variables=variables)
        assert (done.status, done.err) == (0, "")
        assert re.sub(r"[0-9a-f]{16}", "ID", done.out) == re.sub(r"[0-9a-f]{16}", "ID", shown)
        ran.append(command)
    assert len(ran) == 4
