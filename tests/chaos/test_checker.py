from __future__ import annotations

import pytest

from tests.chaos.checker import Life, Logs, Report, check, owner
from tests.chaos.journal import Assigned, Committed, Dropped, Fault, Handled, Sent

T, K, BASE, OWN = "t", "pr-1", "orders", "orders.sb.1"


def sent(*offsets: int, key: str | None = K, partition: int = 0) -> list[Sent]:
    return [Sent(T, partition, offset, key, str(offset)) for offset in offsets]


def handled(*offsets: int, by: str = "b0", sandbox: str = "", at: float = 1.0, pid: int = 1, gap: bool = False) -> list[Handled]:
    group = OWN if sandbox else BASE
    return [Handled(T, 0, offset, K, by, sandbox, pid, group, at, at + 0.1, gap) for offset in offsets]


def assigned(by: str = "b0", at: float = 0.0, pid: int = 1, group: str = BASE) -> Assigned:
    return Assigned(group, T, 0, by, pid, at)


def committed(offset: int, at: float, group: str = BASE) -> Committed:
    return Committed(group, T, 0, offset, "b0", 1, at)


def life(start: int, end: int | None, number: int = 1, sandbox: str = "sb") -> Life:
    return Life(K, number, sandbox, {T: (start,)}, None if end is None else {T: (end,)})


def numbers(report: Report) -> dict[str, int]:
    """All figures that are not 0 and should be."""
    names = ("lost", "wrong_owner", "cross_owner", "unknown", "duplicates_unexplained")
    return {name: getattr(report, name) for name in names if getattr(report, name)}


def test_a_record_belongs_to_the_life_between_whose_cuts_it_lies() -> None:
    """Before the first, between two and after the last it is the baseline's; on a partition that was added since, the cut is 0."""
    lives = [life(10, 20), life(30, None, 2, "other")]
    assert [owner(lives, T, 0, offset) for offset in (9, 10, 19, 20, 29, 30)] == ["", "sb", "sb", "", "", "other"]
    assert owner([life(10, None)], T, 1, 0) == "sb"
    assert owner([life(10, 20)], T, 1, 0) == ""
    assert owner([life(10, 20)], "another", 0, 15) == ""


def test_a_clean_run_is_clean() -> None:
    """Every record is handled once, by its owner."""
    logs = Logs(sent(*range(10)), [*handled(*range(5)), *handled(*range(5, 8), by="s", sandbox="sb"), *handled(8, 9)])
    report = check(logs, [life(5, 8)])
    assert report.good
    assert numbers(report) == {}
    assert (report.messages, report.keyed, report.cycles, report.duplicates) == (10, 10, 1, 0)


def test_a_record_that_nobody_handles_is_lost() -> None:
    """One that a gap reader has dropped for its sandbox is not."""
    assert numbers(check(Logs(sent(1, 2), handled(1)), [])) == {"lost": 1}
    drop = Dropped(T, 0, 2, "sb", OWN, 1.0)
    report = check(Logs(sent(1, 2), handled(1), [drop]), [life(2, 3)])
    assert (numbers(report), report.dropped) == ({}, 1)
    assert numbers(check(Logs(sent(1, 2), handled(1), [drop]), [])) == {"wrong_owner": 1}


def test_a_record_that_another_one_handles_has_the_wrong_owner() -> None:
    """Whether it is the only one, or the owner has handled it, too."""
    assert numbers(check(Logs(sent(1), handled(1)), [life(0, 5)])) == {"wrong_owner": 1}
    assert numbers(check(Logs(sent(5), handled(5, sandbox="sb")), [life(0, 5)])) == {"wrong_owner": 1}
    both = Logs(sent(1), [*handled(1), *handled(1, by="s", sandbox="sb")])
    assert numbers(check(both, [life(0, 5)])) == {"wrong_owner": 1, "cross_owner": 1}
    assert numbers(check(Logs(sent(1, key=None), handled(1, sandbox="sb")), [life(0, 5)])) == {"wrong_owner": 1}


def test_what_nobody_has_sent_is_unknown() -> None:
    """A handler cannot have got it from the producer."""
    assert numbers(check(Logs(sent(1), handled(1, 2)), [])) == {"unknown": 1}


@pytest.mark.parametrize(
    ("faults", "cause"),
    [([Fault("kill", "b0", 1, 1.5)], "death"), ([Fault("pause", "b0", 1, 1.5, 5.0)], "pause"), ([], "rebalance")],
)
def test_a_repeat_after_another_assignment_is_explained(faults: list[Fault], cause: str) -> None:
    """Somebody else began to read the partition in between, and nothing behind the record was committed until then."""
    logs = Logs(
        sent(1),
        [*handled(1), *handled(1, by="b1", pid=2, at=3.0)],
        committed=[committed(1, 0.5), committed(2, 2.5)],
        assigned=[assigned(), assigned("b1", 2.0, 2)],
        faults=faults,
    )
    report = check(logs, [])
    assert (numbers(report), report.duplicates, report.causes) == ({}, 1, {cause: 1})


@pytest.mark.parametrize(
    ("commits", "assignments", "why"),
    [
        ([], [assigned()], "never assigned"),
        ([committed(2, 1.5)], [assigned(), assigned("b1", 2.0, 2)], "although 2 was committed"),
        ([committed(2, 1.5), committed(1, 1.8)], [assigned(), assigned("b1", 2.0, 2)], "although 2 was committed"),
    ],
)
def test_a_repeat_without_a_reason_is_not(commits: list[Committed], assignments: list[Assigned], why: str) -> None:
    """Nobody else began to read, or it was committed before; a commit that went back is no reason."""
    logs = Logs(sent(1), [*handled(1), *handled(1, by="b1", pid=2, at=3.0)], committed=commits, assigned=assignments)
    report = check(logs, [])
    assert numbers(report) == {"duplicates_unexplained": 1}
    assert why in report.problems[0]


def test_a_repeat_within_an_assignment_is_not_explained() -> None:
    """Whatever befell the process meanwhile."""
    logs = Logs(sent(1), [*handled(1), *handled(1, at=2.0)], assigned=[assigned()], faults=[Fault("pause", "b0", 1, 1.5, 5.0)])
    assert numbers(check(logs, [])) == {"duplicates_unexplained": 1}
    again = logs._replace(assigned=[assigned(), assigned(at=1.7)])
    assert numbers(check(again, [])) == {}


def test_a_gap_reader_is_in_the_sandbox_s_place() -> None:
    """It handles what is the sandbox's; a repeat of what the sandbox had not committed has a reason, of what it had committed none."""
    entries = [*handled(1, by="s", pid=2, sandbox="sb"), *handled(1, 2, by="g", pid=3, sandbox="sb", at=5.0, gap=True)]
    logs = Logs(
        sent(1, 2),
        entries,
        assigned=[assigned("s", 0.0, 2, OWN), assigned("g", 4.0, 3, OWN)],
        faults=[Fault("kill", "s", 2, 2.0)],
    )
    assert numbers(check(logs, [life(0, 3)])) == {}
    late = logs._replace(committed=[committed(2, 1.5, OWN)])
    assert numbers(check(late, [life(0, 3)])) == {"duplicates_unexplained": 1}


def test_records_are_counted_on_each_side_of_a_cut() -> None:
    """The least number between two neighbouring cuts is what counts; other keys do not."""
    logs = Logs([*sent(*range(20)), *sent(20, 21, key=None)], handled(*range(22)))
    assert check(logs, [life(5, 8)]).least_at_cut == 3
    assert check(logs, [life(5, 18)]).least_at_cut == 2
    assert check(logs, [life(5, 18), life(19, None, 2)]).least_at_cut == 1
    assert check(logs, [life(4, None)]).least_at_cut == 4


def test_only_long_pauses_count() -> None:
    """One that no session and no lease has noticed proves nothing."""
    logs = Logs([], [], faults=[Fault("pause", "b0", 1, 1.0, 1.0), Fault("pause", "b0", 1, 5.0, 5.0), Fault("kill", "b0", 1, 9.0)])
    report = check(logs, [], long_pause=3.0)
    assert (report.kills, report.pauses) == (1, 1)
