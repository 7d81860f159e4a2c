"""
The contract that every carrier and transport keeps. A subclass says how its transport sends and receives; the tests are the same for all.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import pytest

import tenancy

Headers = list[tuple[str, str]]

CROWD = 200


class Rejected(Exception):
    """Raised by `receive` where the transport told the caller that the work was refused."""


class PropagationContract:
    """
    Subclass it as ``Test...``, with `send` and `receive`.

    `send` uses the transport's outbound side in the current context, and returns the headers that went over the wire, as text.
    `receive` puts work with exactly these headers through the transport's inbound side, runs *body* inside the handler, and returns what it
    returned or raises what it raised. An async handler should ``await asyncio.sleep(0)`` before and after the body, so that work interleaves.
    """

    #: What becomes of a malformed key: the caller is told (`Rejected`), or the work is the baseline's.
    malformed: Literal["rejected", "ignored"] = "ignored"
    #: Whether the transport can carry one header name twice; else several lines are one joined line.
    repeats = True
    #: Whether an exception of the handler reaches whoever called `receive`, or ends inside the transport (`receive` then returns None).
    raises = True

    async def send(self) -> Headers:
        raise AssertionError("say how this transport sends")

    async def receive(self, headers: Headers, body: Callable[[], Any] = tenancy.routing_key) -> Any:
        raise AssertionError("say how this transport receives")

    async def receive_many(self, work: list[tuple[Headers, Callable[[], Any]]]) -> list[Any]:
        """Receive all at once; a broker's subclass publishes all and waits for all."""
        return await asyncio.gather(*(self.receive(headers, body) for headers, body in work))

    def lines(self, *entries: str) -> Headers:
        return [("baggage", entry) for entry in entries] if self.repeats else [("baggage", ",".join(entries))]

    async def test_a_key_makes_the_round_trip(self) -> None:
        """What is sent in a scope is received in a handler, as one entry of one header."""
        with tenancy.scope("pr-42"):
            wire = await self.send()
        entries = [value for name, value in wire if name.lower() == "baggage"]
        assert len(entries) == 1, wire
        assert entries[0].split(",")[0] == "sd-routing-key=pr-42"
        assert entries[0].count("sd-routing-key") == 1
        assert await self.receive([("baggage", entries[0])]) == "pr-42"
        assert tenancy.routing_key() is None

    async def test_without_a_key_none_is_sent(self) -> None:
        """Work of the baseline carries no key."""
        assert not any("sd-routing-key" in value for _, value in await self.send())

    async def test_absent_means_none(self) -> None:
        """Work without a key has none in its handler, whatever was current around the receiver."""
        with tenancy.scope("pr-99"):
            assert await self.receive([]) is None
            assert await self.receive([("baggage", "other=1")]) is None
            assert tenancy.routing_key() == "pr-99"

    @pytest.mark.parametrize("value", ["PR_42", "", "a b", "-x", "none", "baseline", "x" * 64, "%FF", '"pr-42"'])
    async def test_malformed_is_never_a_key(self, value: str) -> None:
        """A value that is no key is refused or passed over, never taken and never fatal."""
        wire = [("baggage", f"a=1,sd-routing-key={value},b=2")]
        if self.malformed == "rejected":
            with pytest.raises(Rejected):
                await self.receive(wire)
        else:
            assert await self.receive(wire) is None
        assert await self.receive([("baggage", "sd-routing-key=pr-42")]) == "pr-42"

    async def test_all_baggage_lines_are_read(self) -> None:
        """The key is found on any line, with properties, white space and percent-encoding."""
        assert await self.receive(self.lines("a=1", "b=2,sd-routing-key=pr-42")) == "pr-42"
        assert await self.receive(self.lines("sd-routing-key=pr-42", "a=1")) == "pr-42"
        assert await self.receive([("baggage", "a=1 , sd-routing-key = %70r-42 ;ttl=1,b=2")]) == "pr-42"
        assert await self.receive([("Baggage", "sd-routing-key=pr-42")]) == "pr-42"
        assert await self.receive([("baggage", "xsd-routing-key=pr-42,a=1;sd-routing-key=pr-42")]) is None

    async def test_of_duplicates_the_last_wins(self) -> None:
        """Named twice, the freshest hop's is the key."""
        assert await self.receive(self.lines("sd-routing-key=pr-1", "sd-routing-key=pr-2")) == "pr-2"
        assert await self.receive([("baggage", "sd-routing-key=pr-1,a=1,sd-routing-key=pr-2")]) == "pr-2"

    async def test_of_dialects_the_first_in_order_wins(self) -> None:
        """Baggage goes before the vendors' older headers, and each of them is read."""
        assert await self.receive([("ot-baggage-sd-routing-key", "pr-2"), ("baggage", "sd-routing-key=pr-1")]) == "pr-1"
        assert await self.receive([("ot-baggage-sd-routing-key", "pr-2")]) == "pr-2"
        assert await self.receive([("uberctx-sd-routing-key", "pr-3")]) == "pr-3"
        assert await self.receive([("tracestate", "vendor=1,sd-routing-key=pr-4")]) == "pr-4"

    async def test_a_nested_scope_is_restored(self) -> None:
        """A scope inside of a handler ends there."""

        def body() -> list[str | None]:
            seen: list[str | None] = [tenancy.routing_key()]
            with tenancy.scope("inner"):
                seen.append(tenancy.routing_key())
                with tenancy.scope(None):
                    seen.append(tenancy.routing_key())
            return [*seen, tenancy.routing_key()]

        assert await self.receive([("baggage", "sd-routing-key=pr-42")], body) == ["pr-42", "inner", None, "pr-42"]

    async def test_an_exception_restores(self) -> None:
        """A handler that fails leaves nothing behind, neither here nor for the next piece of work."""

        def body() -> None:
            raise LookupError("the handler failed")

        with tenancy.scope("pr-99"):
            if self.raises:
                with pytest.raises(LookupError, match="the handler failed"):
                    await self.receive([("baggage", "sd-routing-key=pr-42")], body)
            else:
                await self.receive([("baggage", "sd-routing-key=pr-42")], body)
            assert tenancy.routing_key() == "pr-99"
            assert await self.receive([]) is None

    async def test_a_crowd_of_tasks_does_not_mix(self) -> None:
        """Of 200 pieces of work at once, each sees its own key."""
        keys = [f"k{number}" if number % 4 else None for number in range(CROWD)]
        work = [([("baggage", f"sd-routing-key={key}")] if key else [], tenancy.routing_key) for key in keys]
        assert await self.receive_many(work) == keys

        async def sent(key: str | None) -> list[str]:
            with tenancy.scope(key):
                await asyncio.sleep(0)
                return [value for name, value in await self.send() if name.lower() == "baggage"]

        wires = await asyncio.gather(*map(sent, keys))
        assert wires == [[f"sd-routing-key={key}"] if key else [] for key in keys]

    async def test_a_crowd_of_threads_does_not_mix(self) -> None:
        """Of 200 threads that send, each sends its own key."""
        gate = threading.Barrier(20)

        def sent(key: str | None) -> list[str]:
            with tenancy.scope(key):
                gate.wait(30)
                wire = asyncio.run(self.send())
            return [value for name, value in wire if name.lower() == "baggage"]

        keys = [f"k{number}" if number % 4 else None for number in range(CROWD)]
        with ThreadPoolExecutor(20) as pool:
            wires = await asyncio.to_thread(lambda: list(pool.map(sent, keys)))
        assert wires == [[f"sd-routing-key={key}"] if key else [] for key in keys]
