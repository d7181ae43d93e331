"""Splits the overlapping counts that providers report into parts that add up to the whole usage.

First the names of the fields decide where a part belongs, then `total_tokens`. A part that is larger than its whole
is outside of it, whatever the total is. Counts that contradict each other are noted, and read in the way that costs
more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain, combinations
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from gateway.protocol.counts import any_counts, count, counted, find
from gateway.protocol.usage_fields import (
    CACHED,
    CACHED_DETAILS,
    CITATION,
    INPUT_DETAILS,
    KNOWN,
    MODALITIES,
    OUTPUT_DETAILS,
    REASONING,
    WRITE_LIFETIMES,
    WRITTEN,
    UsageFields,
)

_CACHED_KINDS: Final = MappingProxyType({"audio": "cached_audio", "image": "cached_image"})
_WHOLE_OF: Final = MappingProxyType(
    {"cached": "input", "written": "input", "reasoning": "output", "citation": "output"}
)
# Of two readings that both fit the total, the more expensive one is used: reasoning outside the output before a cache
# outside the input.
_DEAREST_FIRST: Final = ("reasoning", "written", "cached")


class Parts(NamedTuple):
    """The parts of one segment by the name of their rate, and what was inconsistent."""

    tokens: dict[str, int]
    contradictions: list[str]
    unknown: dict[str, int]


def partition(usage: Mapping[str, Any], fields: UsageFields, input_tokens: int, output_tokens: int) -> Parts:
    """Returns the disjoint parts of a usage whose input and output counts are known."""
    contradictions: list[str] = []
    unknown = _unknown(usage)
    wholes = {"input": input_tokens, "output": output_tokens}
    parts = {
        "cached": _agreed(usage, CACHED, contradictions, "cached input", smallest=True),
        "written": 0,
        "reasoning": counted(usage, REASONING) or 0,
        "citation": counted(usage, CITATION) or 0,
    }
    lifetimes = {name: counted(usage, paths) or 0 for name, paths in WRITE_LIFETIMES.items()}
    parts["written"] = _agreed(usage, WRITTEN, contradictions, "cache writes", smallest=False) or sum(
        lifetimes.values()
    )
    outside = _outside_by_name(usage, fields, wholes, parts, contradictions)
    spare = 0
    if total := count(usage.get("total_tokens")):
        outside, spare = _outside_by_total(total, wholes, parts, outside, unknown, contradictions)
    tokens: dict[str, int] = {}
    _divide_input(tokens, usage, fields, wholes, parts, outside, lifetimes, contradictions)
    _divide_output(tokens, usage, fields, wholes, parts, outside, contradictions)
    if spare:
        kind = fields.output_kind if fields.output else fields.input_kind
        tokens[kind] = tokens.get(kind, 0) + spare
    return Parts({name: number for name, number in tokens.items() if number}, contradictions, unknown)


def _agreed(
    usage: Mapping[str, Any],
    paths: tuple[tuple[str, ...], ...],
    contradictions: list[str],
    what: str,
    *,
    smallest: bool,
) -> int:
    """Returns the count at any of the paths. If they differ, it is the one that makes the bill higher."""
    found = any_counts(usage, paths)
    if len(found) > 1:
        contradictions.append(f"two counts of {what}")
    return (min(found) if smallest else max(found)) if found else 0


def _outside_by_name(
    usage: Mapping[str, Any],
    fields: UsageFields,
    wholes: Mapping[str, int],
    parts: Mapping[str, int],
    contradictions: list[str],
) -> set[str]:
    outside = {"cached", "written"} if fields.cache_outside_input else set()
    if any(find(usage, path) is not None for path in CITATION):
        outside |= {"citation", "reasoning"}
    outside.add("citation")
    for part, whole in _WHOLE_OF.items():
        if parts[part] > wholes[whole]:
            outside.add(part)
    inside = [part for part in ("cached", "written") if part not in outside]
    if sum(parts[part] for part in inside) > wholes["input"]:
        contradictions.append("more tokens read from the cache and written to it than there are")
        outside.update(inside)
    return outside


def _outside_by_total(
    total: int,
    wholes: Mapping[str, int],
    parts: Mapping[str, int],
    outside: set[str],
    unknown: Mapping[str, int],
    contradictions: list[str],
) -> tuple[set[str], int]:
    """Returns the parts that are outside according to the total, and tokens of the total that no field names."""
    base = wholes["input"] + wholes["output"]
    counts = {**parts, **{f"?{name}": number for name, number in unknown.items()}}
    may = [
        part for part in (*_DEAREST_FIRST, *(f"?{name}" for name in unknown)) if part not in outside and counts[part]
    ]
    said = [part for part in outside if counts[part]]
    for more in _subsets(may):
        for of_said in _subsets(said):
            if base + sum(counts[part] for part in (*more, *of_said)) == total:
                spare = sum(counts[part] for part in more if part.startswith("?"))
                return outside | {part for part in more if not part.startswith("?")}, spare
    contradictions.append("total_tokens is not the sum of the parts")
    return outside, max(0, total - base - sum(counts[part] for part in said))


def _subsets(parts: list[str]) -> Iterator[tuple[str, ...]]:
    few = parts[:8]  # a sender could name many fields, and the number of subsets grows exponentially
    return chain.from_iterable(combinations(few, size) for size in range(len(few) + 1))


def _divide_input(
    tokens: dict[str, int],
    usage: Mapping[str, Any],
    fields: UsageFields,
    wholes: Mapping[str, int],
    parts: Mapping[str, int],
    outside: set[str],
    lifetimes: Mapping[str, int],
    contradictions: list[str],
) -> None:
    """Splits the input: plain, read from the cache by modality, written by lifetime."""
    plain = _by_modality(usage, INPUT_DETAILS, wholes["input"], fields.input_kind, "input", contradictions)
    cached = parts["cached"]
    by_kind = {kind: counted(usage, _cached_paths(kind)) or 0 for kind in _CACHED_KINDS}
    named = sum(by_kind.values())
    if named > cached:
        contradictions.append("more cached tokens by modality than cached tokens")
        cached = named if "cached" in outside else cached
    text_named = _named_text(usage)
    rest = max(0, cached - named)
    if "cached" not in outside:
        for kind in _CACHED_KINDS:
            by_kind[kind] = _take(plain, f"input_{kind}", by_kind[kind])
        from_text = _take(plain, "input", rest)
        rest -= from_text
        if rest and not text_named:  # the cached modality is not stated: text first, because it is the cheapest
            for kind in ("image", "audio", "video"):
                taken = _take(plain, f"input_{kind}", rest)
                if kind in by_kind:
                    by_kind[kind] += taken
                else:
                    from_text += taken
                rest -= taken
        rest = from_text
    tokens["cached_input"] = rest
    for kind, name in _CACHED_KINDS.items():
        tokens[name] = by_kind[kind]
    if "written" not in outside:
        left = parts["written"]
        for kind in ("input", "input_image", "input_audio", "input_video"):
            left -= _take(plain, kind, left)
    _divide_writes(tokens, parts["written"], lifetimes)
    tokens.update(plain)


def _divide_writes(tokens: dict[str, int], written: int, lifetimes: Mapping[str, int]) -> None:
    """Counts what the split leaves unnamed as an ordinary write. What it names beyond the sum is outside of the sum."""
    longer = {name: number for name, number in lifetimes.items() if name != "cache_write"}
    named = sum(longer.values())
    larger = any(number > written for number in longer.values())
    tokens["cache_write"] = written if larger else max(0, written - named)
    tokens.update(longer)


def _divide_output(
    tokens: dict[str, int],
    usage: Mapping[str, Any],
    fields: UsageFields,
    wholes: Mapping[str, int],
    parts: Mapping[str, int],
    outside: set[str],
    contradictions: list[str],
) -> None:
    """Splits the output: the answer by modality, reasoning, citations."""
    plain = _by_modality(usage, OUTPUT_DETAILS, wholes["output"], fields.output_kind, "output", contradictions)
    if "reasoning" not in outside:
        left = parts["reasoning"] - _take(plain, "output", parts["reasoning"])
        if left:
            contradictions.append("more reasoning and other output by modality than output")
    tokens["reasoning"] = parts["reasoning"]
    tokens["citation"] = parts["citation"]
    tokens.update(plain)


def _by_modality(
    usage: Mapping[str, Any],
    containers: tuple[str, ...],
    whole: int,
    default: str,
    side: str,
    contradictions: list[str],
) -> dict[str, int]:
    """Splits the whole by modality; text is what remains. Without details, all of it is the dialect's default."""
    found = {
        f"{side}_{kind}": counted(usage, tuple((one, f"{kind}_tokens") for one in containers)) or 0
        for kind in MODALITIES
    }
    named = sum(found.values())
    if named > whole:
        contradictions.append(f"more {side} tokens by modality than {side} tokens")
    texts = counted(usage, tuple((one, "text_tokens") for one in containers))
    rest = max(0, whole - named)
    found[side] = min(rest, texts or 0) if default != side else rest
    if default != side:
        found[default] = found.get(default, 0) + rest - found[side]
    return found


def _take(plain: dict[str, int], kind: str, wanted: int) -> int:
    taken = min(plain.get(kind, 0), wanted)
    plain[kind] = plain.get(kind, 0) - taken
    return taken


def _cached_paths(kind: str) -> tuple[tuple[str, ...], ...]:
    name = f"{kind}_tokens"
    return tuple(
        path
        for details in CACHED_DETAILS
        for path in ((details, name), *((outer, details, name) for outer in INPUT_DETAILS))
    )


def _named_text(usage: Mapping[str, Any]) -> bool:
    return counted(usage, _cached_paths("text")) is not None


def _unknown(usage: Mapping[str, Any]) -> dict[str, int]:
    """Returns the token fields that no table knows, at the top level and in the details, by name."""
    found: dict[str, int] = {}
    for place in (usage, *(usage.get(name) for name in (*INPUT_DETAILS, *OUTPUT_DETAILS))):
        for name, value in place.items() if isinstance(place, dict) else ():
            if name.endswith("_tokens") and name not in KNOWN and (number := count(value)):
                found[name[:64]] = number
    return found
