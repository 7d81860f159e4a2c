from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.chaos.journal import Fault
from tests.chaos.rabbitmq.checker import Life, Logs, Report, check, lives_of
from tests.chaos.rabbitmq.entries import Confirmed, Did, Returned, Took, Tried, Wrote
from tests.chaos.rabbitmq.inbox import Effect, Inbox

K = "pr-1"
#: Creating at 10, active at 13, deleting at 20, draining at 23, deleted at 25.
LIFE = Life(K, 1, "sb", 10, 13, 20, 23, 25)


def sent(*ids: str, key: str | None = K, at: float = 1.0) -> list[Confirmed]:
    return [Confirmed(id_, "classic", key, at - 0.01, at) for id_ in ids]


def did(id_: str = "m1", at: float = 1.0, *, sandbox: str = "", pid: int = 1, key: str | None = K, altered: str = "") -> Did:
    return Did(id_, "classic", key, f"w{pid}", sandbox, pid, at, at + 0.1, altered)


def found(confirmed: list[Confirmed], entries: list[Did], *lives: Life, **logs: object) -> Report:
    return check(Logs([], confirmed, entries, **logs), lives)  # type: ignore[arg-type]


def numbers(report: Report) -> dict[str, int]:
    """All figures that are not 0 and should be."""
    names = ("lost", "wrong_owner", "cross_owner", "unknown", "altered", "looped", "duplicates_unexplained", "handled_twice")
    return {name: getattr(report, name) for name in names if getattr(report, name)}


def test_a_clean_run_is_clean() -> None:
    """Every message is begun once, by somebody who may."""
    entries = [did("m1", 9), did("m2", 12), did("m3", 12, sandbox="sb"), did("m4", 22, sandbox="sb"), did("m5", 21), did("m6", 99)]
    report = found(sent("m1", "m2", "m3", "m4", "m5", "m6"), entries, LIFE)
    assert report.good
    assert numbers(report) == {}
    assert (report.messages, report.keyed, report.cycles, report.duplicates) == (6, 6, 1, 0)


@pytest.mark.parametrize(("at", "wrong"), [(9, 0), (12.9, 0), (13.1, 1), (19.9, 1), (20.1, 0), (30, 0)])
def test_the_baseline_begins_nothing_while_the_key_is_active(at: float, wrong: int) -> None:
    """Before it is active and as soon as it is deleted it may."""
    assert found(sent("m1"), [did(at=at)], LIFE).wrong_owner == wrong


@pytest.mark.parametrize(("at", "wrong"), [(9.9, 1), (10.1, 0), (22.9, 0), (23.1, 1), (30, 1)])
def test_a_sandbox_begins_nothing_before_its_life_and_after_the_lease_of_its_end(at: float, wrong: int) -> None:
    """In between it may, also while the baseline may as well."""
    assert found(sent("m1"), [did(at=at, sandbox="sb")], LIFE).wrong_owner == wrong


def test_a_sandbox_begins_nothing_that_is_another_s() -> None:
    """What has another key, none, or the key at a time when another sandbox has it."""
    assert found(sent("m1", key=None), [did(at=15, key=None, sandbox="sb")], LIFE).wrong_owner == 1
    assert found(sent("m1", key="pr-2"), [did(at=15, key="pr-2", sandbox="sb")], LIFE).wrong_owner == 1
    assert found(sent("m1"), [did(at=15, sandbox="other")], LIFE).wrong_owner == 1


def test_what_was_confirmed_and_nobody_has_handled_is_lost() -> None:
    """What was published, and not confirmed, may be there or not."""
    assert numbers(found(sent("m1", "m2"), [did("m1")])) == {"lost": 1}
    assert numbers(check(Logs([Tried("m1", "classic", K, 1.0)], [], []), [])) == {}
    assert numbers(check(Logs([Tried("m1", "classic", K, 1.0)], [], [did("m1")]), [])) == {}
    assert numbers(found(sent("m1"), [did("m1"), did("m2")])) == {"unknown": 1}


def test_of_what_nothing_came_is_lost() -> None:
    """A deduplication that says of a message that it was handled, which it was not, loses it."""
    assert numbers(found(sent("m1"), [did()], effects=[])) == {"lost": 1}
    assert numbers(found(sent("m1"), [did()], effects=[Effect("m1", "", "w1")])) == {}


def test_two_owners_of_a_message_are_found() -> None:
    """With a deduplication, those count of whose work something came."""
    entries = [did(at=12), did(at=12.5, sandbox="sb", pid=2)]
    cut = [Fault("cut", "w1", 1, 12.05)]
    plain = found(sent("m1"), entries, LIFE, faults=cut)
    assert (numbers(plain), plain.cross_owner_plain) == ({"cross_owner": 1, "handled_twice": 1}, 1)
    once = found(sent("m1"), entries, LIFE, faults=cut, effects=[Effect("m1", "", "w1")])
    assert (numbers(once), once.cross_owner_plain, once.duplicates) == ({}, 1, 1)
    both = found(sent("m1"), entries, LIFE, faults=cut, effects=[Effect("m1", "", "w1"), Effect("m1", "sb", "w2")])
    assert numbers(both) == {"cross_owner": 1, "handled_twice": 1}


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (Fault("kill", "w1", 1, 1.05), "death"),
        (Fault("cut", "w1", 1, 1.5), "cut"),
        (Fault("broker", "", 0, 0.5, 4.0), "restart"),
        (Fault("kill", "w1", 1, 0.9, 0.2), "death"),  # it was at work while that was done
        (Fault("kill", "w1", 1, 0.5, 0.2), ""),  # before it had the message
        (Fault("kill", "w1", 1, 6.0), ""),  # when it was begun again already
        (Fault("kill", "w3", 3, 1.5), ""),  # somebody else
        (Fault("broker", "", 0, 6.0, 4.0), ""),
    ],
)
def test_a_repeat_has_a_reason(fault: Fault, cause: str) -> None:
    """Somebody who had the message in his hands cannot have acknowledged it, or the broker cannot have heard that."""
    report = found(sent("m1"), [did(at=1.0), did(at=5.0, pid=2)], faults=[fault], effects=[Effect("m1", "", "w1")])
    assert report.duplicates == 1
    assert report.causes == ({cause: 1} if cause else {})
    assert report.duplicates_unexplained == (0 if cause else 1)


def test_an_acknowledgement_is_not_under_way_for_ever() -> None:
    """What befalls a process long after it was done with a message is no reason."""
    entries = [did(at=1.0), did(at=60.0, pid=2)]
    report = found(sent("m1"), entries, faults=[Fault("kill", "w1", 1, 30.0)])
    assert report.duplicates_unexplained == 1


def test_whoever_was_about_to_forward_has_a_message_in_his_hands_too() -> None:
    """It may have published the copy, and not acknowledged the message."""
    entries = [did(at=14.0, sandbox="sb", pid=2), did(at=16.0, sandbox="sb", pid=2)]
    killed = [Fault("kill", "w1", 1, 13.9)]
    assert numbers(found(sent("m1"), entries, LIFE, faults=killed, effects=[Effect("m1", "sb", "w2")])) == {
        "duplicates_unexplained": 1
    }
    took = [Took("m1", "w1", 1, 13.8)]
    assert numbers(found(sent("m1"), entries, LIFE, faults=killed, took=took, effects=[Effect("m1", "sb", "w2")])) == {}


def test_what_goes_round_and_round_is_found() -> None:
    """A message is forwarded once, and some times more where faults befall it."""
    took = [Took("m1", "w1", 1, 13.0 + 0.01 * number) for number in range(15)]
    assert numbers(found(sent("m1"), [did(at=21)], LIFE, took=took)) == {"looped": 1}
    assert numbers(found(sent("m1"), [did(at=21)], LIFE, took=took[:5])) == {}


def test_what_was_changed_on_the_way_is_found() -> None:
    """The handler sees what was published."""
    report = found(sent("m1"), [did(altered="exchange 'x'")])
    assert numbers(report) == {"altered": 1}
    assert "exchange 'x'" in report.problems[0]


def test_the_messages_at_each_create_and_delete_are_counted() -> None:
    """The least number is what counts."""
    times = [11, 12, 13.5, 21, 22, 24, 40]
    confirmed = [each for at in times for each in sent(f"m{at}", at=at)]
    assert check(Logs([], confirmed, []), [LIFE]).least_in_flight == 2
    assert check(Logs([], confirmed, []), [LIFE, Life(K, 2, "sb", 50, 53, 60, 63, 65)]).least_in_flight == 0


def test_lives_are_read_from_the_rows() -> None:
    """From when a row was asked for, or when somebody was sure of it: whatever is the more lenient."""
    rows = [
        *(Wrote(K, 1, "creating", "sb", 1.0, replied) for replied in (0.0, 1.1)),
        *(Wrote(K, 1, "active", "sb", 4.0, replied) for replied in (0.0, 4.1)),
        *(Wrote(K, 1, "deleting", "sb", 8.0, replied) for replied in (0.0, 8.1)),
        Wrote(K, 1, "draining", "sb", 11.0),  # its controller died, and it may be there or not
        *(Wrote(K, 1, "none", "sb", 13.0, replied) for replied in (0.0, 13.1)),
        Wrote(K, 2, "creating", "other", 20.0),
    ]
    calls = [Returned("create", K, 1, "sb", 4.2), Returned("delete", K, 1, "sb", 13.2)]
    assert lives_of(rows, calls) == [
        Life(K, 1, "sb", 1.0, 4.1, 8.0, 13.1, 13.2),
        Life(K, 2, "other", 20.0, math.inf, math.inf, math.inf, math.inf),
    ]


def test_the_inbox_lets_something_come_of_a_message_once(tmp_path: Path) -> None:
    """Whoever claims it first, unless that is over; who comes late with his work does it in vain."""
    mine, other = (Inbox(tmp_path / "inbox.db", name, sandbox) for name, sandbox in (("w1", ""), ("w2", "sb")))
    assert mine.claim("m1", "a") == "ours"
    assert other.claim("m1", "b") == "busy"
    mine._database.execute("UPDATE claims SET until = 0")
    assert other.claim("m1", "b") == "ours"
    assert not mine.done("m1", "a")
    assert other.done("m1", "b")
    assert not other.done("m1", "b")
    assert mine.claim("m1", "c") == "done"
    assert mine.effects() == [Effect("m1", "sb", "w2")]
