"""Whole bodies of every dialect, and whatever an honest provider may report for them: none costs more than its hold.

The provider here knows nothing of how the gateway reckons. It makes at most one token of each byte of text, at most
48,169 of an image, reads at most what was reserved of what the body hides, keeps to the bound on its output (or to its
model's own), and reports that in its dialect's words, with any split into cached, written, spoken and thought tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.billing.bill import charge
from gateway.billing.price_row import DAY_MS
from gateway.protocol.usage_reader import read_usage
from tests.support.effort import effort
from tests.support.price_rows import NOW, ROWS
from tests.support.reservations import LIMITS, OF_NAME, RESERVE, held_for

IMAGE_MOST: Final = 48_169
OWN_OUTPUT: Final = 700
TEXTS: Final = st.text(max_size=40)


@dataclass
class Asked:
    """A body, and the most that its provider may do for it."""

    operation: str
    body: dict[str, Any]
    input: int = 0
    output: int | None = None
    hidden: bool = False
    tools: list[str] = field(default_factory=list)
    calls: int = LIMITS.max_tool_calls
    images: int = 0
    units: dict[str, Decimal] = field(default_factory=dict)
    tier: str = ""
    background: bool = False


def size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


@st.composite
def parts(draw: st.DrawFn, asked: Asked, names: Mapping[str, str]) -> list[dict[str, Any]]:
    """Parts of a message. `names`: what text, image and file are called in the dialect."""
    found: list[dict[str, Any]] = []
    for kind in draw(st.lists(st.sampled_from(["text", "text", "image", "file"]), max_size=4)):
        if kind == "text":
            said = draw(TEXTS)
            asked.input += size(said) + 4
            found.append({"type": names["text"], "text": said})
        elif kind == "image":
            asked.input += IMAGE_MOST
            url = f"https://example.org/{draw(st.integers(0, 9))}.png"
            found.append({"image_url": {"url": url}} if names["image"] == "image_url" else {"image_url": url})
            found[-1]["type"] = names["image"]
            if names["image"] == "image":
                found[-1] = {"type": "image", "source": {"type": "url", "url": url}}
        else:
            asked.hidden = True
            if names["image"] == "image":
                found.append({"type": "document", "source": {"type": "url", "url": "https://example.org/a.pdf"}})
            else:
                key = draw(st.sampled_from(["file_id", "file_url", "file_data"]))
                found.append({"type": names["file"], names["file"]: {key: "x"}, key: "x"})
    return found


@st.composite
def common(draw: st.DrawFn, asked: Asked, bound_name: str) -> None:
    """What chat, messages and responses share: a bound, a tier, hosted tools."""
    if draw(st.booleans()) or asked.operation == "messages":
        asked.output = draw(st.integers(1, 900))
        asked.body[bound_name] = asked.output
    asked.tier = draw(st.sampled_from(["", "auto", "default", "flex", "priority"]))
    if asked.tier:
        asked.body["service_tier"] = asked.tier
    tools = draw(st.lists(st.sampled_from(["web_search", "code_interpreter", "function"]), max_size=2, unique=True))
    if tools:
        asked.body["tools"] = [{"type": tool} for tool in tools]
    asked.tools = [tool for tool in tools if tool != "function"]
    if asked.tools:
        asked.hidden = True
        if draw(st.booleans()):
            asked.calls = draw(st.integers(0, 4))
            asked.body["max_tool_calls"] = asked.calls


@st.composite
def responses_bodies(draw: st.DrawFn) -> Asked:
    asked = Asked("responses", {})
    names = {"text": "input_text", "image": "input_image", "file": "input_file"}
    content = draw(parts(asked, names))
    asked.input += 4
    asked.body["input"] = [{"role": "user", "content": content}]
    instructions = draw(TEXTS)
    asked.input += size(instructions)
    asked.body["instructions"] = instructions
    if draw(st.booleans()):
        asked.background = asked.body["background"] = True
    if draw(st.sampled_from([False, False, True])):
        asked.body["conversation"], asked.hidden = "conv_1", True
    draw(common(asked, "max_output_tokens"))
    return asked


@st.composite
def chat_bodies(draw: st.DrawFn) -> Asked:
    asked = Asked("chat.completions", {})
    names = {"text": "text", "image": "image_url", "file": "file"}
    messages = [{"role": "user", "content": draw(parts(asked, names))} for _ in range(draw(st.integers(1, 3)))]
    asked.body["messages"], asked.input = messages, asked.input + 4 * len(messages)
    draw(common(asked, draw(st.sampled_from(["max_tokens", "max_completion_tokens"]))))
    n = draw(st.integers(1, 3))
    asked.body["n"] = n
    predicted = draw(st.none() | TEXTS)
    beside = 0
    if predicted is not None:
        asked.body["prediction"] = {"type": "content", "content": predicted}
        beside = size(predicted)
        asked.input += size(predicted)
    asked.output = n * ((asked.output or OWN_OUTPUT) + beside)
    if draw(st.booleans()):
        asked.body["search_parameters"] = {"max_search_results": 3}
        asked.tools, asked.calls, asked.hidden = [*asked.tools, "live_search"], 3, True
    return asked


@st.composite
def messages_bodies(draw: st.DrawFn) -> Asked:
    asked = Asked("messages", {})
    names = {"text": "text", "image": "image", "file": "document"}
    asked.body["messages"] = [{"role": "user", "content": draw(parts(asked, names))}]
    asked.input += 4
    draw(common(asked, "max_tokens"))
    return asked


@st.composite
def other_bodies(draw: st.DrawFn) -> Asked:
    kind = draw(
        st.sampled_from(["completions", "embeddings", "moderations", "rerank", "images", "speech", "transcription"])
    )
    said = draw(TEXTS)
    asked = Asked(kind, {}, input=size(said))
    if kind == "completions":
        runs = draw(st.integers(1, 3))
        asked.body |= {"prompt": said, "best_of": runs, "max_tokens": draw(st.integers(1, 500))}
        asked.output = runs * int(asked.body["max_tokens"])
    elif kind in ("embeddings", "moderations"):
        asked.body["input"], asked.output = said, 0
    elif kind == "rerank":
        documents = draw(st.lists(TEXTS, min_size=1, max_size=5))
        asked.body |= {"query": said, "documents": documents}
        asked.input = sum(size(said) + size(one) + 4 for one in documents)  # the query is read with each
        asked.output, asked.units = 0, {"search_unit": Decimal(1)}
    elif kind == "images":
        asked.operation, asked.images = "images.generations", draw(st.integers(1, 3))
        asked.body |= {"prompt": said, "n": asked.images, "size": "1", "quality": draw(st.sampled_from(["hd", "x"]))}
        asked.output = asked.images * OWN_OUTPUT
    elif kind == "speech":
        asked.operation, asked.output = "audio.speech", 0
        asked.body["input"] = said
    else:
        asked.operation, asked.hidden, asked.input = "audio.transcriptions", True, 0
        asked.body["url"] = "https://example.org/a.mp3"
        asked.units = {"second": Decimal(RESERVE // 20)}
    return asked


BODIES: Final = st.one_of(responses_bodies(), chat_bodies(), messages_bodies(), other_bodies())
Split = Callable[..., int]


@st.composite
def calls(draw: st.DrawFn, asked: Asked, usage: dict[str, Any], answer: dict[str, Any], called: str) -> None:
    """Calls of hosted tools, together at most as many as are permitted."""
    left = draw(st.integers(0, asked.calls))
    made = {}
    for tool in asked.tools:
        made[tool] = left if tool == asked.tools[-1] else draw(st.integers(0, left))
        left -= made[tool]
    if "live_search" in made:
        usage["num_sources_used"] = made.pop("live_search")
    if made and called == "server_tool_use":
        usage[called] = {f"{tool}_requests": number for tool, number in made.items()}
    elif made:
        answer[called] = {tool: {"num_requests": number} for tool, number in made.items()}


@st.composite
def reports(draw: st.DrawFn, asked: Asked, row: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A usage and an answer that an honest provider may give."""
    context = row.get("context_tokens", RESERVE)  # what is reserved where it is known
    most_input = asked.input + (context if asked.hidden else 0)
    if "context_tokens" in row and not asked.tools:
        most_input = min(most_input, context)
    most_output = OWN_OUTPUT if asked.output is None else asked.output
    read, put = (draw(st.integers(0, most) | st.just(most)) for most in (most_input, most_output))
    cached = draw(st.integers(0, read))
    written = draw(st.integers(0, read - cached))
    for_an_hour = draw(st.integers(0, written))
    spoken, thought = draw(st.integers(0, read - cached - written)), draw(st.integers(0, put))
    if not asked.hidden:
        spoken = 0  # a body that shows text alone has no sound
    if asked.images:
        thought = 0  # pictures are put out, and nothing is thought
    tier = (
        draw(st.sampled_from(["", asked.tier]))
        if asked.tier not in ("", "auto")
        else draw(st.sampled_from(["", "flex", "priority"]))
    )
    answer: dict[str, Any] = {"service_tier": tier} if tier else {}
    dialect = OF_NAME[asked.operation].dialect.name
    usage: dict[str, Any]
    if dialect == "messages":
        usage = {
            "input_tokens": read - cached - written,
            "cache_read_input_tokens": cached,
            "cache_creation_input_tokens": written,
            "cache_creation": {"ephemeral_1h_input_tokens": for_an_hour},
            "output_tokens": put,
            "speed": draw(st.sampled_from(["fast", "standard"])),
            "inference_geo": draw(st.sampled_from(["us", "global"])),
        }
        called = "server_tool_use"
    else:
        names = ("input", "output") if dialect in ("responses", "images", "transcription") else ("prompt", "completion")
        usage = {
            f"{names[0]}_tokens": read,
            f"{names[0]}_tokens_details": {
                "cached_tokens": cached,
                "cache_write_tokens": written,
                "audio_tokens": spoken,
            },
            f"{names[1]}_tokens": put,
            f"{names[1]}_tokens_details": {"reasoning_tokens": thought},
            "total_tokens": read + put,
        }
        called = "tool_usage"
    draw(calls(asked, usage, answer, called))
    if asked.images:
        answer["data"] = [{}] * draw(st.integers(0, asked.images))
    if dialect in ("speech", "moderations", "embeddings"):
        usage = {} if dialect == "speech" else {"prompt_tokens": read, "total_tokens": read}
    if "second" in asked.units:
        longest = min(asked.units["second"], Decimal(most_input // 20))  # no longer than its model hears
        usage = {"type": "duration", "seconds": float(draw(st.sampled_from([min(Decimal(1), longest), longest])))}
    if "search_unit" in asked.units:
        usage = {"billed_units": {"search_units": 1, "input_tokens": read}}
    return usage, answer


@st.composite
def price_rows(draw: st.DrawFn) -> dict[str, Any]:
    row = draw(ROWS) | {"max_output_tokens": OWN_OUTPUT}
    row["per_call"] = row.get("per_call", {}) | draw(st.sampled_from([{}, {"live_search": "0.025"}]))
    row["per_unit"] = draw(st.sampled_from([{}, {"second": "0.0001"}, {"hour": "0.111"}, {"search_unit": "0.002"}]))
    if draw(st.booleans()):
        row["context_tokens"] = draw(st.sampled_from([50, 2_000, 120_000]))
    for later in row["from"].values():
        later["max_output_tokens"] = OWN_OUTPUT
    return row


@settings(max_examples=effort(150), suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(price_rows(), BODIES, st.data())
def test_no_honest_answer_costs_more_than_what_was_held_for_its_request(
    row: dict[str, Any], asked: Asked, data: st.DataObject
) -> None:
    start = NOW + data.draw(st.integers(-DAY_MS, 5 * DAY_MS))
    held = held_for(asked.operation, asked.body, row, now_ms=start)
    usage_json, answer = data.draw(reports(asked, row))
    ended = start + data.draw(st.integers(0, DAY_MS if asked.background else LIMITS.max_duration_ms))
    price = held.route.price
    facts = held.request.facts
    facts = facts._replace(conditions=price.conditions) if price.conditions else facts
    usage = read_usage(OF_NAME[asked.operation].dialect.name, usage_json, answer, facts)
    if usage is not None:
        cost = charge(price, usage, ended, held.router.prices, held.route.model).nano_usd
        assert cost <= held.nano_usd
