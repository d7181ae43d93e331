"""Answers of real providers through a running gateway: bytes, ending and the amount in the journal, as the index says.

The same answers are held against the pure modules, in any chunking, by `tests/unit/test_dialects.py`.
"""

from __future__ import annotations

import json
import random
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from gateway.protocol.operations import find
from gateway.protocol.sse_framing import split_events
from tests.dialects.conftest import Stages
from tests.support.forms import form, wav
from tests.support.scripted_upstream import Step, answer, request, send
from tests.support.waiting import wait_until

ANSWERS = Path(__file__).parent.parent / "data" / "dialects"
INDEX: dict[str, dict[str, Any]] = json.loads((ANSWERS / "index.json").read_text())
SERVED = [name for name, entry in INDEX.items() if find("POST", entry["path"])]
RATES = {
    "input": "1.00",
    "cached_input": "0.10",
    "cache_write": "1.25",
    "cache_write_1h": "2.00",
    "input_audio": "3.00",
    "input_image": "4.00",
    "output": "10.00",
    "output_image": "40.00",
    "per_call": {"web_search": "0.01", "web_fetch": "0.02"},
    "per_unit": {"second": "0.0001", "search_unit": "0.002"},
}
NANO_USD = {
    "cached": 100,
    "cache_write": 1_250,
    "cache_write_1h": 2_000,
    "input_audio": 3_000,
    "input_image": 4_000,
    "output_image": 40_000,
    "web_search": 10_000_000,
    "web_fetch": 20_000_000,
    "seconds": 100_000,
    "search_units": 2_000_000,
}


def cost_nano_usd(usage: dict[str, Any]) -> int:
    """The cost of a usage in the index's words, by `RATES`."""
    get = usage.get
    plain = get("input", 0) - sum(get(part, 0) for part in ("cached", "cache_write", "input_audio", "input_image"))
    parts = {**usage, **get("calls", {}), "cache_write": get("cache_write", 0) - get("cache_write_1h", 0)}
    cost: int = plain * 1_000 + (get("output", 0) - get("output_image", 0)) * 10_000
    return cost + sum(int(Decimal(str(parts.get(name, 0))) * rate) for name, rate in NANO_USD.items())


def served(name: str) -> Step:
    """The answer of a file, in pieces of any size, its connection ended properly."""
    entry, body = INDEX[name], (ANSWERS / INDEX[name]["file"]).read_bytes()
    kind = f"content-type: {entry['content_type']}\r\n".encode()
    if entry["content_type"] != "text/event-stream":
        return answer(body, status=b"%d Answer" % entry["status"], headers=kind)
    cuts = sorted(random.Random(name).sample(range(1, len(body)), 6))  # noqa: S311 - the same pieces each time
    pieces = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    framed = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces]
    return send(b"HTTP/1.1 200 OK\r\n" + kind + b"transfer-encoding: chunked\r\n\r\n", *framed, b"0\r\n\r\n")


def asked(name: str) -> dict[str, Any]:
    """The request of an entry, for `Scenario.ask`."""
    entry = INDEX[name]
    fields = entry["request"].get("multipart")
    if fields is None:
        return {"body": json.dumps(entry["request"]).encode(), "path": entry["path"]}
    body, kind = form(
        [(name, value.encode()) for name, value in fields.items() if name != "file"],
        [("file", "speech.wav", wav(2))],
    )
    return {"body": body, "path": entry["path"], "content_type": kind}


@pytest.mark.parametrize("name", [name for name in SERVED if "client_sees" in INDEX[name]])
async def test_an_answer_reaches_the_client_and_the_books_as_it_is(name: str, stages: Stages) -> None:
    entry = INDEX[name]
    body = (ANSWERS / entry["file"]).read_bytes()
    async with stages([request(), served(name)], prices={"*": RATES}) as scenario:
        client = await scenario.ask(**asked(name))
        await client.read_all()
        assert client.status == 200
        sees = entry["client_sees"]
        if isinstance(sees, dict):
            events = split_events(body)
            numbers = [number for number, event in enumerate(events) if b"data:" in event]
            left_out = {numbers[place] for place in sees["drop_data_events"]}
            assert client.body == b"".join(event for number, event in enumerate(events) if number not in left_out)
        elif sees == "all":
            assert client.body == body
        else:
            assert client.body.startswith(body + b"\n\n")
            assert client.body.endswith(b"data: [DONE]\n\n")
        await wait_until(lambda: bool(scenario.log_lines()), what="the request is settled and logged")
        line = scenario.log_lines()[0]
        assert line["outcome"] == {"cut": "upstream_cut"}.get(entry["ended"], entry["ended"])
        usage = entry["usage"]
        if entry["operation"] == "messages.count_tokens":  # free: nothing is held, nothing is posted
            assert scenario.journal() == []
            return
        (settled,) = scenario.journal()
        if usage is None or "estimate" in usage:
            assert settled["by"] == "estimate"
            assert int(settled["amount"]) < -cost_nano_usd(usage or {})
        elif usage:
            assert (settled["by"], int(settled["amount"])) == ("usage", -cost_nano_usd(usage))
        else:
            assert int(settled["amount"]) == 0


async def test_an_overloaded_provider_is_a_refusal_before_its_first_event(stages: Stages) -> None:
    name = "messages-overloaded-first"
    async with stages([request(), served(name)]) as scenario:
        client = await scenario.ask(**asked(name))
        await client.read_all()
        assert client.body == (ANSWERS / INDEX[name]["file"]).read_bytes()
        line = await scenario.ended(outcome="upstream_refused")
        assert line["settled_by"] == "-"
