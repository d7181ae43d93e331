"""Answers of real providers: each gives the usage, the ending and the bytes that are right, however it is cut up.

`tests/data/dialects/index.json` says what is right for each file, and why.
"""

import json
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import GatewayError
from gateway.protocol.dialects.audio import SPEECH, TRANSCRIPTION
from gateway.protocol.dialects.chat import CHAT, COMPLETIONS
from gateway.protocol.dialects.dialect import Dialect, Origin, StreamSummary
from gateway.protocol.dialects.embeddings import EMBEDDINGS
from gateway.protocol.dialects.images import IMAGES
from gateway.protocol.dialects.messages import COUNT_TOKENS, MESSAGES
from gateway.protocol.dialects.rerank import RERANK
from gateway.protocol.lenient_json import parse_object
from gateway.protocol.quantities import Usage, quantities_of
from gateway.protocol.sse_framer import SseFramer
from gateway.protocol.sse_framing import split_events
from gateway.protocol.sse_observer import SseObserver
from gateway.protocol.usage_dropping import UsageDroppingFramer
from gateway.protocol.usage_reader import RequestFacts, read_usage
from tests.support.effort import effort
from tests.support.sse_corpus import cuts

ANSWERS = Path(__file__).parent.parent / "data" / "dialects"
INDEX: dict[str, dict[str, Any]] = json.loads((ANSWERS / "index.json").read_text())
STREAMS = [name for name, entry in INDEX.items() if entry["content_type"] == "text/event-stream"]
WHOLE = [name for name in INDEX if name not in STREAMS and INDEX[name]["status"] == 200]
BOUND = 1 << 20
ORIGIN = Origin("req_1", "m", 1_790_000_000)
CUT = GatewayError("upstream_invalid_response", "The provider's stream ended too early.")
DIALECTS = {
    "chat.completions": CHAT,
    "completions": COMPLETIONS,
    "embeddings": EMBEDDINGS,
    "messages": MESSAGES,
    "messages.count_tokens": COUNT_TOKENS,
    "images.generations": IMAGES,
    "audio.speech": SPEECH,
    "audio.transcriptions": TRANSCRIPTION,
    "rerank": RERANK,
}


@dataclass
class Seen:
    """What came of one answer."""

    written: bytes
    ended: str
    usage: dict[str, Any] | None
    summary: StreamSummary = field(repr=False)


def body_of(name: str) -> bytes:
    return (ANSWERS / str(INDEX[name]["file"])).read_bytes()


def dialect_of(name: str) -> Dialect:
    return DIALECTS[INDEX[name]["operation"]]


def framer_of(name: str) -> SseFramer:
    request = INDEX[name]["request"]
    form = dialect_of(name).stream
    assert form is not None
    asked = (request.get("stream_options") or {}).get("include_usage") is True
    kind = SseFramer if asked else UsageDroppingFramer
    return kind(SseObserver(form, request.get("n", 1)), BOUND)


def passed(name: str, chunks: list[bytes]) -> Seen:
    """An answer's bytes through framer and observer, its body properly ended."""
    framer = framer_of(name)
    written = b"".join(framer.feed(chunk) for chunk in chunks) + framer.finish()
    facts = framer.observer.summary()
    ended = facts.ended or ("completed" if facts.may_end else "cut")
    if ended == "cut":
        written += framer.separated(framer.observer.form.close_broken(facts, CUT, ORIGIN))
    usage = read_usage(dialect_of(name).name, facts.usage, facts.answer) if facts.usage is not None else None
    return Seen(written, ended, counted(usage), facts)


def counted(usage: Usage | None) -> dict[str, Any] | None:
    """A usage in the index's words; what is 0 is left out."""
    if usage is None:
        return None
    quantities = quantities_of(usage)
    sums: dict[str, Any] = {}
    for segment in quantities.segments:
        for kind, number in segment.tokens.items():
            sums[kind] = sums.get(kind, 0) + number
    found: dict[str, Any] = {
        "input": usage.input_tokens,
        "cached": usage.cached_input_tokens,
        "cache_write": sums.get("cache_write", 0) + sums.get("cache_write_1h", 0),
        "cache_write_1h": sums.get("cache_write_1h", 0),
        "input_audio": sums.get("input_audio", 0),
        "input_image": sums.get("input_image", 0),
        "output": usage.output_tokens,
        "output_image": sums.get("output_image", 0),
        "reasoning": usage.reasoning_tokens,
        "calls": dict(quantities.calls),
        "seconds": quantities.units.get("second", Decimal(0)),
        "search_units": quantities.units.get("search_unit", Decimal(0)),
        "cost_usd": usage.cost_usd,
        "estimate": ["output"] if quantities.lacks_output else None,
    }
    return {name: value for name, value in found.items() if value}


def expected(name: str) -> dict[str, Any] | None:
    usage: dict[str, Any] | None = INDEX[name]["usage"]
    if usage is None:
        return None
    return {
        name: Decimal(str(value)) if name in ("seconds", "search_units") else value
        for name, value in usage.items()
        if name != "service_tier"
    }


@pytest.mark.parametrize("name", STREAMS)
@given(data=st.data())
@settings(max_examples=effort(40))
def test_a_stream_gives_its_usage_its_ending_and_its_bytes_in_any_chunking(name: str, data: st.DataObject) -> None:
    body = body_of(name)
    seen = passed(name, data.draw(cuts(body)))
    assert seen.ended == INDEX[name]["ended"]
    assert seen.usage == (expected(name) or None)
    dropped = INDEX[name].get("client_sees")
    if isinstance(dropped, dict):
        events = split_events(body)
        numbers = [number for number, event in enumerate(events) if b"data:" in event]
        left_out = {numbers[place] for place in dropped["drop_data_events"]}
        assert seen.written == b"".join(event for number, event in enumerate(events) if number not in left_out)
    elif seen.ended == "cut":
        assert seen.written.startswith(body)
    else:
        assert seen.written == body


@pytest.mark.parametrize("name", STREAMS)
def test_a_streams_tier_is_read_where_it_says_one(name: str) -> None:
    facts = passed(name, [body_of(name)]).summary
    said = (facts.answer.get("service_tier"), (facts.usage or {}).get("service_tier"))
    assert INDEX[name]["usage"] is None or (INDEX[name]["usage"] or {}).get("service_tier") in (*said, None)


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_answer_gives_its_usage_and_its_ending(name: str) -> None:
    fields = parse_object(body_of(name))
    assert fields is not None
    facts = dialect_of(name).read_answer(fields)
    assert facts.ended == INDEX[name]["ended"]
    assert facts.error is None
    usage = None if facts.usage is None else read_usage(dialect_of(name).name, facts.usage, fields, RequestFacts())
    assert counted(usage) == (expected(name) or None)


def test_a_stream_that_is_cut_inside_an_event_gets_an_event_of_its_own_for_the_error() -> None:
    body = body_of("chat-cut")
    seen = passed("chat-cut", [body])
    ending = split_events(seen.written[len(body) :])
    assert ending[0].strip() == b""
    error = json.loads(ending[1].removeprefix(b"data: "))
    assert error["error"]["message"] == CUT.message
    assert ending[2:] == [b"data: [DONE]\n\n"]
