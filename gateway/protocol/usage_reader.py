"""Reads the usage of an answer as its upstream reports it, for all dialects, streams and whole answers.

    read_usage("chat", usage, answer, facts) -> Usage      None if nothing sound was reported

`usage` is the usage object as the dialect's rules for streams assemble it. `answer` is the answer to which it belongs,
or those of its members that matter: `service_tier`, `output` or `choices` (hosted calls), `data`, `quality`, `size`,
`duration`, `meta`. A usage without sound counts of input and output is treated as none, because charging half of a bill
would hide the other half. Never raises, whatever the objects contain.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final, NamedTuple

from gateway.protocol.counts import amount, counted, find
from gateway.protocol.hosted_calls import hosted_calls, tool_name
from gateway.protocol.partition import partition
from gateway.protocol.quantities import EMPTY, Images, Quantities, Segment, Usage
from gateway.protocol.reported_cost import reported_cost
from gateway.protocol.usage_fields import DIALECTS, UNITS, UNITS_OF_ANSWERS, UsageFields

BASE_TIERS: Final = frozenset({"", "auto", "default", "standard", "standard_only", "on_demand"})
"""Service tiers that mean no tier: the plain rates of a row apply."""
CONDITIONS: Final = ("speed", "inference_geo", "completion_window", "search_context_size")
"""The facts on which rates are known to depend, besides the tier. A price row may name others."""
_FROM_REQUEST: Final = frozenset({"completion_window", "search_context_size"})  # speed and region are never requested
_MAX_FACT_CHARACTERS: Final = 64

# A usage with only these names needs nothing but six numbers.
_PLAIN: Final = frozenset(
    {"input_tokens", "output_tokens", "total_tokens", "input_tokens_details", "output_tokens_details"}
)

_SIX: Final = frozenset({"input", "cached_input", "output", "reasoning"})
_MAX_ITERATIONS: Final = 1000


class RequestFacts(NamedTuple):
    """The facts of a request that affect its price, where the answer does not state them. "" and 0 mean not stated.

    `characters` counts the text to be spoken, `seconds` the audio that was sent. `conditions` are the names that the
    model's price row asks for besides `CONDITIONS`.
    """

    service_tier: str = ""
    completion_window: str = ""
    search_context_size: str = ""
    quality: str = ""
    size: str = ""
    characters: int = 0
    seconds: float = 0
    conditions: tuple[str, ...] = ()


NO_FACTS: Final = RequestFacts()


def read_usage(
    dialect: str, usage: object, answer: Mapping[str, Any] = EMPTY, request: RequestFacts = NO_FACTS
) -> Usage | None:
    """Returns the usage of an answer, or None if nothing sound was reported."""
    if not isinstance(usage, dict):
        usage = {}
    if dialect == "responses" and (plain := _read_plain(usage, answer, request)) is not None:
        return plain
    fields = DIALECTS.get(dialect, DIALECTS["responses"])
    units = _units(dialect, usage, answer, request)
    images = _images(answer, request) if dialect == "images" else ()
    input_tokens, output_tokens = counted(usage, fields.input), counted(usage, fields.output)
    if not (input_tokens or fields.needs_output) and fields.needs_tokens:
        return None  # an operation without output has at least an input
    lacks_output = fields.partial and output_tokens is None and input_tokens is not None
    if input_tokens is None or (output_tokens is None and fields.needs_output and not fields.partial):
        if fields.needs_tokens or (input_tokens is None and not (units or images or dialect == "moderations")):
            return None
        input_tokens = input_tokens or 0
    return _quantify(
        fields,
        usage,
        answer,
        request,
        (input_tokens, output_tokens or 0),
        Quantities(units=units, images=images, lacks_output=lacks_output),
    )


def find_usage(tail: bytes) -> dict[str, Any] | None:
    """Returns the last usage in the final bytes of a JSON text that is too large to keep, or None. Never raises.

    A quoted key cannot occur inside a JSON string, because its quotes would be escaped there.
    """
    at = len(tail)
    while (at := tail.rfind(b'"usage"', 0, at)) >= 0:
        text = tail[at + len(b'"usage"') :].decode("utf-8", "replace").lstrip(" \t\r\n:")
        try:
            usage = json.JSONDecoder().raw_decode(text)[0]
        except (ValueError, RecursionError):
            continue
        if read_usage("responses", usage) is not None:
            found: dict[str, Any] = usage
            return found
    return None


def _read_plain(usage: dict[str, Any], answer: Mapping[str, Any], request: RequestFacts) -> Usage | None:
    """Reads the common case, in which only the plain rates apply. Returns None for any other case."""
    if not usage.keys() <= _PLAIN or request is not NO_FACTS or "tool_usage" in answer:
        return None
    cached = _only(usage.get("input_tokens_details"), "cached_tokens")
    reasoning = _only(usage.get("output_tokens_details"), "reasoning_tokens")
    input_tokens, output_tokens, total = (
        usage.get("input_tokens"),
        usage.get("output_tokens"),
        usage.get("total_tokens"),
    )
    if not (type(input_tokens) is type(output_tokens) is type(total) is type(cached) is type(reasoning) is int):
        return None
    if not (0 <= cached <= input_tokens and 0 <= reasoning <= output_tokens and total == input_tokens + output_tokens):
        return None
    tier = answer.get("service_tier")
    if not (tier is None or (isinstance(tier, str) and tier in BASE_TIERS)) or _has_more(answer):
        return None
    return Usage(input_tokens, cached, output_tokens, reasoning, total, None)


def _only(details: object, name: str) -> Any:
    """Returns the only detail, 0 if there are none, or None if there is another one or something else."""
    if details is None:
        return 0
    return details.get(name, 0) if isinstance(details, dict) and len(details) <= (name in details) else None


def _has_more(answer: Mapping[str, Any]) -> bool:
    """Whether an answer has calls of hosted tools, or a fact on which rates may depend."""
    items = answer.get("output")
    if isinstance(items, list):
        for item in items:
            kind = item.get("type") if isinstance(item, dict) else None
            if isinstance(kind, str) and kind.endswith("_call") and kind != "function_call":
                return True
    for name in CONDITIONS:  # noqa: SIM110 - each step of a generator is a call
        if isinstance(answer.get(name), str):
            return True
    return False


def _quantify(
    fields: UsageFields,
    usage: dict[str, Any],
    answer: Mapping[str, Any],
    request: RequestFacts,
    wholes: tuple[int, int],
    found: Quantities,
) -> Usage:
    main = partition(usage, fields, *wholes)
    segments, noted = _segments(fields, usage, main.tokens)
    quantities = found._replace(
        segments=segments,
        tool_tokens=_tool_tokens(usage, answer),
        calls=hosted_calls(usage, answer),
        facts=_facts(usage, answer, request),
        unknown=main.unknown,
        contradictions=(*main.contradictions, *noted),
    )
    return _sum_up(quantities, reported_cost(usage))


def _says_more(quantities: Quantities) -> bool:
    """Whether there is anything besides input, cached input and output of one model."""
    if len(quantities.segments) != 1 or quantities.segments[0].model:
        return True
    return not quantities.segments[0].tokens.keys() <= _SIX or any(quantities[1:])


def _sum_up(quantities: Quantities, cost_usd: str | None) -> Usage:
    prompt = cached = output = reasoning = 0
    for segment in quantities.segments:
        prompt += segment.prompt_tokens
        cached += sum(number for name, number in segment.tokens.items() if name.startswith("cached_"))
        output += sum(
            number for name, number in segment.tokens.items() if name.startswith(("output", "reasoning", "citation"))
        )
        reasoning += segment.tokens.get("reasoning", 0)
    more = quantities if _says_more(quantities) else None
    return Usage(prompt, cached, output, reasoning, prompt + output, cost_usd, more)


def _segments(
    fields: UsageFields, usage: dict[str, Any], main: dict[str, int]
) -> tuple[tuple[Segment, ...], tuple[str, ...]]:
    """Returns the top-level counts, or the iterations that a provider lists (Anthropic); each has its own step.

    `compaction` and `advisor_message` are not part of the top-level counts, `message` is. If a `fallback_message`
    served the turn, the `message` entries of other models were declined and are not billed.
    """
    listed = usage.get("iterations")
    entries = [one for one in listed[:_MAX_ITERATIONS] if isinstance(one, dict)] if isinstance(listed, list) else []
    if not entries:
        return (Segment(main),), ()
    served = [one.get("model") for one in entries if one.get("type") == "fallback_message"]
    segments: list[Segment] = []
    within = dict.fromkeys(main, 0)
    noted: list[str] = []
    for entry in entries:
        kind, model = entry.get("type"), entry.get("model")
        if kind == "message" and served and model not in served:
            continue
        parts = partition(entry, fields, counted(entry, fields.input) or 0, counted(entry, fields.output) or 0)
        noted += parts.contradictions
        own = kind in ("advisor_message", "fallback_message") and isinstance(model, str)
        segments.append(Segment(parts.tokens, str(model) if own else ""))
        if kind not in ("compaction", "advisor_message"):
            for name, number in parts.tokens.items():
                within[name] = within.get(name, 0) + number
    rest = {name: number - within[name] for name, number in main.items() if number > within[name]}
    if rest:
        segments.append(Segment(rest))
        if any(within.values()):
            noted.append("iterations are less than the whole")
    return tuple(segments), tuple(noted)


def _tool_tokens(usage: Mapping[str, Any], answer: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Returns the tokens that hosted tools use with a model of their own (`tool_usage.image_gen`)."""
    found: dict[str, dict[str, int]] = {}
    for place in (answer, usage):
        table = place.get("tool_usage")
        for name, value in table.items() if isinstance(table, dict) else ():
            tokens = _tokens_of_tool(value) if isinstance(value, dict) else {}
            if tokens:
                found[tool_name(name)] = tokens
    return found


def _tokens_of_tool(value: dict[str, Any]) -> dict[str, int]:
    fields = DIALECTS["responses"]
    input_tokens, output_tokens = counted(value, fields.input) or 0, counted(value, fields.output) or 0
    return partition(value, fields, input_tokens, output_tokens).tokens


def _facts(usage: Mapping[str, Any], answer: Mapping[str, Any], request: RequestFacts) -> dict[str, str]:
    facts: dict[str, str] = {}
    said = (answer.get("service_tier"), usage.get("service_tier"), request.service_tier)
    tier = next((one for one in said if isinstance(one, str) and one), "")
    if tier not in BASE_TIERS:
        facts["service_tier"] = tier[:_MAX_FACT_CHARACTERS]
    for name in (*CONDITIONS, *request.conditions):
        requested = getattr(request, name) if name in _FROM_REQUEST else None
        for value in (usage.get(name), answer.get(name), requested):
            if (text := _fact(value)) is not None:
                facts[name] = text
                break
    return facts


def _fact(value: object) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float) or (isinstance(value, str) and value):
        return str(value)[:_MAX_FACT_CHARACTERS]
    return None


def _units(
    dialect: str, usage: Mapping[str, Any], answer: Mapping[str, Any], request: RequestFacts
) -> dict[str, Decimal]:
    """Returns seconds, pages, characters and search units: from the usage, else the answer, else the request."""
    found: dict[str, Decimal] = {}
    zeros: set[str] = set()
    for tree, table in ((usage, UNITS), (answer, UNITS_OF_ANSWERS)):
        for name, paths in table.items():
            values = [value for path in paths if (value := amount(find(tree, path))) is not None]
            if name not in found and (value := next(filter(None, values), None)) is not None:
                found[name] = value
            elif values:
                zeros.add(name)
    if dialect == "speech" and "character" not in found and request.characters:
        found["character"] = Decimal(request.characters)
    if dialect == "transcription" and "second" not in found:
        if request.seconds and (not usage or "second" in zeros):
            found["second"] = amount(request.seconds) or Decimal(0)
        elif "second" in zeros:  # the length is not known, but a price may have a least charge
            found["second"] = Decimal(0)
    return found


def _images(answer: Mapping[str, Any], request: RequestFacts) -> tuple[Images, ...]:
    data = answer.get("data")
    number = len(data) if isinstance(data, list) else int(isinstance(answer.get("b64_json"), str))
    if not number:
        return ()
    quality, size = _said(answer, "quality") or request.quality, _said(answer, "size") or request.size
    return (Images(number, quality[:_MAX_FACT_CHARACTERS], size[:_MAX_FACT_CHARACTERS]),)


def _said(answer: Mapping[str, Any], name: str) -> str:
    value = answer.get(name)
    return value if isinstance(value, str) and value != "auto" else ""
