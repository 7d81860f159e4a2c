"""10,000 interleaved requests with 50 keys through the five services of the shop, over asyncio, threads and processes."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import pytest

from examples.shop.check import Hop, Report, Request, check
from examples.shop.plan import SERVICES
from tests.examples.crowd.clients import AT_ONCE, Answer, shared
from tests.examples.crowd.plan import KEYS, MALFORMED, PARTS, PLAN, ROUND, UNKNOWN, Orders, orders
from tests.examples.crowd.run import WORKERS, Outcome, flight, idle, run, wrong_answers, wrong_copies
from tests.examples.crowd.wire import Copy

ROUNDS = 50


@pytest.fixture
def servers(kafka: str, rabbitmq: str, postgresql: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the shop use the servers of the session."""
    for name, address in (("KAFKA", kafka), ("RABBITMQ", rabbitmq), ("POSTGRESQL", postgresql)):
        monkeypatch.setenv(f"TENANCY_TEST_{name}", address)


def test_the_crowd_is_what_it_says() -> None:
    """10,000 requests: 150 with each of 50 keys, 1,000 without, 1,000 with unknown, 500 with malformed ones; each fork has many keys."""
    sent = orders(ROUNDS)
    assert len(sent) == len({order for order, _ in sent}) == ROUNDS * ROUND == 10_000
    kinds = Counter(kind for _, kind in sent)
    assert len(KEYS) == len(PLAN.routes) == 50
    assert {kinds[key] for key in KEYS} == {150}
    assert (kinds[None], sum(kinds[key] for key in UNKNOWN), sum(kinds[key] for key in MALFORMED)) == (1000, 1000, 500)
    assert all(order.endswith(f"-{kind}") for order, kind in sent if kind in KEYS)
    served = {service: Counter(getattr(PLAN.expected[key], service) for key in KEYS) for service in SERVICES}
    assert served == {
        "storefront": {"baseline": 30, "blue": 20},
        "pricing": {"baseline": 20, "red": 30},
        "orders": {"baseline": 50},
        "fulfilment": {"baseline": 30, "red": 20},
        "notify": {"baseline": 20, "blue": 30},
    }
    assert {PLAN.expected[key].partition for key in KEYS} == set(KEYS)
    shares = shared(sent)
    assert shares["processes"][0][1] in KEYS, "the processes are to be forked under a key"
    assert Counter(chain.from_iterable(shares.values())) == Counter(sent)
    assert {caller: round(len(share) / 10_000 * sum(AT_ONCE.values())) for caller, share in shares.items()} == AT_ONCE


def perfect(
    sent: Orders,
) -> tuple[list[Request], list[Hop], dict[str, list[tuple[str, str]]], list[Answer], dict[str, list[Copy]]]:
    """What is found where all goes by the plan."""
    requests, hops, answers = [], [], []
    rows: dict[str, list[tuple[str, str]]] = {"orders": [], "notifications": []}
    copies: dict[str, list[Copy]] = {"Kafka": [], "RabbitMQ": []}
    for order, kind in sent:
        expected = PLAN.expected[kind]
        key = kind if kind in KEYS else None
        requests.append(Request(order, kind, expected.status))
        for place in (*SERVICES, *PARTS):
            version = getattr(expected, place.partition(".")[0])
            if version is not None:
                hops.append(Hop(order, place, version, key))
        if expected.partition is not None:
            for table in rows.values():
                table.append((order, expected.partition))
            for broker in copies.values():
                broker.append(Copy(order, [("baggage", f"sd-routing-key={key}")] if key else []))
        who = "sandbox=blue" if expected.storefront == "blue" else "baseline"
        served_by = f'shop/storefront; {who}{f"; routing_key={key}" if key else ""}; reason="because"'
        text = f'{{"order":"{order}","price":{100 + len(order)}}}' if expected.status == 200 else '{"detail":"no"}'
        answers.append(Answer(order, kind, expected.status, served_by, text, 0.0, 1.0))
    return requests, hops, rows, answers, copies


def judged(requests: list[Request], hops: list[Hop], rows: dict[str, list[tuple[str, str]]]) -> Report:
    return check(requests, hops, rows, services=(*SERVICES, *PARTS), plan=PLAN)


def test_one_wrong_trace_among_all_is_found() -> None:
    """Where all is by the plan nothing is found; with any one hop, row, answer or message wrong, missing or doubled exactly that is."""
    sent = orders(1)
    requests, hops, rows, answers, copies = perfect(sent)
    assert judged(requests, hops, rows).good
    assert [*wrong_answers(sent, answers), *wrong_copies(sent, copies)] == []

    for place in (*SERVICES, *PARTS):
        index = next(index for index, hop in enumerate(hops) if hop.service == place and hop.key == "k02")
        hop, others = hops[index], [*hops[:index], *hops[index + 1 :]]
        other = "blue" if hop.version == "baseline" else "baseline"
        for wrong in (hop._replace(key="k07"), hop._replace(key=None), hop._replace(version=other)):
            report = judged(requests, [*others, wrong], rows)
            assert (report.misrouted, report.lost, report.wrong_rows, report.places) == (1, 0, 0, {place: 1})
            assert hop.order in report.problems[0]
            assert "k02" in report.problems[0]
        assert judged(requests, others, rows).lost == 1
        assert judged(requests, [*hops, hop], rows).misrouted == 1
    for table in rows:
        row = rows[table][7]
        for wrong_rows in ([], [row, row], [(row[0], "k49")], [row, ("nobody's", "k49")]):
            broken = {**rows, table: [*rows[table][:7], *wrong_rows, *rows[table][8:]]}
            assert judged(requests, hops, broken).wrong_rows == 1

    index = next(index for index, answer in enumerate(answers) if answer.kind == "k02")
    answer, left = answers[index], [*answers[:index], *answers[index + 1 :]]
    for wrong_answer in (
        answer._replace(status=502),
        answer._replace(text=answers[index + 1].text),
        answer._replace(served_by=answer.served_by.replace("k02", "k07")),
        answer._replace(served_by=answer.served_by.replace("sandbox=blue", "baseline")),
        answer._replace(served_by=""),
    ):
        assert len(list(wrong_answers(sent, [*left, wrong_answer]))) == 1
    assert len(list(wrong_answers(sent, left))) == len(list(wrong_answers(sent, [*answers, answer]))) == 1

    for broker, found in copies.items():
        one, rest = found[5], [*found[:5], *found[6:]]
        for wrong_copies_ in (
            [],
            [one, one],
            [one._replace(headers=[("baggage", "sd-routing-key=k49")])],
            [one._replace(headers=[*one.headers, ("x", "y")])],
            [one, one._replace(order="nobody's")],
        ):
            assert len(list(wrong_copies(sent, {broker: [*rest, *wrong_copies_]}))) == 1


@pytest.mark.service
@pytest.mark.timeout(600)
def test_ten_thousand_interleaved_requests_and_none_wrong(servers: None) -> None:
    """Each hop, message, row and answer of each request is as planned; and the requests really were beside each other, everywhere."""
    sent = orders(ROUNDS)
    outcome = run(sent)
    print(outcome.summary())
    findings = outcome.findings(sent)
    assert not findings, described(outcome, findings)
    assert outcome.report.good
    assert outcome.report.requests == 10_000

    assert len(outcome.ledgers) == 9 * WORKERS
    assert list(idle(outcome.ledgers)) == []
    for caller, answers in outcome.answers.items():
        assert flight(answers).requests == AT_ONCE[caller]
    seen = flight(chain.from_iterable(outcome.answers.values()))
    assert seen.requests > 0.9 * sum(AT_ONCE.values())
    assert seen.kinds > 25
    assert seen.mixed > 0.95


# Faults that cannot be told apart where they meet are in runs of their own: what the storefront gets wrong, everyone behind it does.
@pytest.mark.slow
@pytest.mark.service
@pytest.mark.timeout(300)
def test_a_key_in_a_global_is_found(servers: None) -> None:
    """With the key of the storefront in a variable of its module, tasks take each other's: hops, messages and rows are wrong, and said so."""
    sent = orders(1)
    outcome = run(sent, sabotage="global:storefront")
    assert {"storefront.task", "pricing", "orders", "rows in notifications"} <= outcome.report.places.keys(), outcome.summary()
    assert any(wrong_copies(sent, outcome.copies))
    assert outcome.report.lost == 0
    assert " saw the key k" in described(outcome, outcome.findings(sent))


@pytest.mark.slow
@pytest.mark.service
@pytest.mark.timeout(300)
def test_other_mistakes_are_found_where_they_are(servers: None) -> None:
    """Threads with a global, pools that hand no key over, consumers that filter nothing: each is found there, and nowhere else."""
    sent = orders(1)
    outcome = run(sent, sabotage="global:pricing,bare-pools:storefront,no-filter:fulfilment,no-filter:notify")
    found = outcome.report.places
    assert {
        "pricing.pause",
        "storefront.thread",
        "storefront.process",
        "fulfilment",
        "notify",
        "rows in notifications",
    } <= found.keys()
    clean = {"answer", "storefront", "storefront.task", "orders", "orders.pause", "orders.thread", "rows in orders"}
    assert clean.isdisjoint(found), described(outcome, outcome.findings(sent))
    assert list(wrong_copies(sent, {"Kafka": outcome.copies["Kafka"]})) == []
    assert any(wrong_copies(sent, {"RabbitMQ": outcome.copies["RabbitMQ"]}))


def described(outcome: Outcome, findings: list[str]) -> str:
    logs = [f"{worker} printed:\n{tail[-1000:]}" for worker, tail in outcome.logs.items()]
    return "\n".join([outcome.summary(), f"{len(findings)} findings, of which the first:", *findings[:40], *logs[:5]])
