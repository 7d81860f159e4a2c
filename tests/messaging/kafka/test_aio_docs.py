"""
What the how-to pages on aiokafka and FastStream only define, because it needs a broker, does what they say.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer

from tests.messaging.kafka.aio_support import make_topic, send, until
from tests.messaging.test_docs import page

pytestmark = pytest.mark.service


@pytest.mark.parametrize("sandbox", [None, "pr-42"])
@pytest.mark.parametrize("way", ["consume", "consume_at_once"])
def test_the_functions_on_aiokafka(
    kafka: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sandbox: str | None, way: str
) -> None:
    """What the page's producer sends, its consumers receive, each its own."""
    defined = page("aiokafka.md", tmp_path, monkeypatch, sandbox)
    orders = defined["orders"]

    async def run() -> None:
        topic = await make_topic(kafka)
        await defined["produce"](kafka, topic)
        await defined["produce"](kafka, topic)
        consuming = defined[way](kafka, topic, topic)
        if way == "consume":
            await asyncio.wait_for(consuming, 30)
        else:
            with pytest.raises(LookupError, match="enough"):
                await asyncio.wait_for(consuming, 30)
        async with AIOKafkaConsumer(topic, bootstrap_servers=kafka, auto_offset_reset="earliest") as reader:
            headers = [(await asyncio.wait_for(reader.getone(), 30)).headers for _ in range(2)]
        assert headers == [(), (("trace", b"\xff"), ("baggage", b"sd-routing-key=pr-42"))]

    asyncio.run(run())
    assert orders == ([(b"0", None)] * 2 if sandbox is None else [(b"1", "pr-42")] * 2)


@pytest.mark.parametrize("sandbox", [None, "pr-42"])
def test_the_subscriber_of_faststream(kafka: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sandbox: str | None) -> None:
    """The page's subscriber handles its own, on a real broker."""
    address = tmp_path / "page.md"
    text = (Path(__file__).resolve().parents[3] / "docs" / "how-to" / "faststream.md").read_text()
    topic = asyncio.run(make_topic(kafka))
    text = text.replace("localhost:9092", kafka).replace('"orders"', f'"{topic}"')
    address.write_text(text)
    assert f'@broker.subscriber("{topic}", **middleware.group("{topic}")' in text
    defined = page(str(address), tmp_path, monkeypatch, sandbox)

    async def run() -> None:
        await send(kafka, topic, [None, "pr-42", None, "pr-42"])
        await defined["broker"].start()
        try:
            await defined["follow"]()
            await until(lambda: len(defined["orders"]) >= 2)
        finally:
            await defined["broker"].stop()

    if sandbox is None:
        # A new group of the baseline begins at the end of the topic, which is FastStream's default.
        next(iter(defined["broker"].subscribers))._connection_args["auto_offset_reset"] = "earliest"
    asyncio.run(run())
    assert defined["orders"] == ([(0, None), (2, None)] if sandbox is None else [(1, "pr-42"), (3, "pr-42")])
