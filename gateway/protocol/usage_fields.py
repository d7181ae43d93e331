"""The table of the fields of a usage in each dialect, for whole answers, streams and compactions.

A path is a sequence of names, starting at the usage object. The first path of a row that has a count above zero is
read, because servers fill fields that they do not count with zeros. A provider with other names needs one more path
here.

 field of cached input                             | providers                          |
 `input_tokens_details.cached_tokens`              | OpenAI                             |
 `input_tokens_details.cache_read_input_tokens`    | Perplexity                         |
 `prompt_tokens_details.cached_tokens`             | OpenAI, OpenRouter                 |
 `cached_tokens`                                   | Cohere, Anthropic's chat endpoint  |
 `prompt_cache_hit_tokens`                         | DeepSeek                           |
 `cache_read_input_tokens`                         | Anthropic (besides the input), Databricks (within the prompt) |
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from types import MappingProxyType
from typing import Final, NamedTuple

Path = tuple[str, ...]

INPUT_DETAILS: Final = (
    "input_tokens_details",
    "prompt_tokens_details",
    "input_token_details",  # transcriptions use the singular
    "prompt_token_details",
)
OUTPUT_DETAILS: Final = (
    "output_tokens_details",
    "completion_tokens_details",
    "output_token_details",
    "completion_token_details",
)
CACHED_DETAILS: Final = ("cached_tokens_details", "cached_token_details")
MODALITIES: Final = ("audio", "image", "video")


def _inside(containers: tuple[str, ...], *names: str) -> tuple[Path, ...]:
    return tuple(product(containers, names))


CACHED: Final[tuple[Path, ...]] = (
    *_inside(INPUT_DETAILS, "cached_tokens", "cache_read_input_tokens", "cache_read_tokens", "cached_read_tokens"),
    ("cached_tokens",),
    ("prompt_cache_hit_tokens",),
    ("cache_read_input_tokens",),
    ("cache_read_tokens",),
)
WRITTEN: Final[tuple[Path, ...]] = (
    *_inside(
        INPUT_DETAILS,
        "cache_write_tokens",
        "cache_creation_tokens",
        "cache_creation_input_tokens",
        "cache_write_input_tokens",
        "cached_write_tokens",
    ),
    ("cache_creation_input_tokens",),
    ("cache_creation_tokens",),
    ("cache_write_tokens",),
    ("cache_write_input_tokens",),
)
_WRITE_SPLITS: Final[tuple[Path, ...]] = (
    ("cache_creation",),
    ("cache_write_tokens_details",),
    ("cache_creation_token_details",),
    *_inside(
        INPUT_DETAILS,
        "cache_write_tokens_details",
        "cache_creation_token_details",
        "cache_creation_tokens_details",
        "cache_creation",
    ),
)
WRITE_LIFETIMES: Final[Mapping[str, tuple[Path, ...]]] = MappingProxyType(
    {
        "cache_write": tuple(
            (*split, name)
            for split in _WRITE_SPLITS
            for name in ("ephemeral_5m_input_tokens", "ttl_5m_tokens", "ttl_30m_tokens")
        ),
        "cache_write_1h": tuple(
            (*split, name) for split in _WRITE_SPLITS for name in ("ephemeral_1h_input_tokens", "ttl_1h_tokens")
        ),
        "cache_write_12h": tuple(
            (*split, name)
            for split in _WRITE_SPLITS
            for name in ("ttl_12h_tokens", "ttl_24h_tokens", "ephemeral_12h_input_tokens")
        ),
    }
)
REASONING: Final[tuple[Path, ...]] = (
    *_inside(OUTPUT_DETAILS, "reasoning_tokens", "thinking_tokens"),
    ("reasoning_tokens",),
    ("reasoning_output_tokens",),
)
CITATION: Final[tuple[Path, ...]] = (("citation_tokens",),)
UNITS: Final[Mapping[str, tuple[Path, ...]]] = MappingProxyType(
    {
        "second": (("seconds",), ("audio_seconds",), ("prompt_audio_seconds",)),
        "character": (("characters",), ("billed_units", "characters")),
        "page": (("pages_processed",), ("pages",)),
        "search_unit": (("billed_units", "search_units"), ("search_units",)),
    }
)
"""Countable quantities of a usage that are not tokens."""
UNITS_OF_ANSWERS: Final[Mapping[str, tuple[Path, ...]]] = MappingProxyType(
    {
        "second": (("duration",),),
        "page": (("usage_info", "pages_processed"),),
        "search_unit": (("meta", "billed_units", "search_units"),),
    }
)

# Parts of other parts, or numbers that are no tokens. They are never read, and not reported as unknown.
NOT_OF_THEIR_OWN: Final = frozenset(
    {
        "text_tokens",
        "total_tokens",
        "accepted_prediction_tokens",
        "rejected_prediction_tokens",
        "prompt_cache_miss_tokens",
        "max_tokens",
        "context_tokens",
    }
)


class UsageFields(NamedTuple):
    """The fields of one dialect. `cache_outside_input`: its `input` excludes tokens read from and written to the cache.

    `input_kind` and `output_kind` are the kinds of tokens if no details state them. `needs_output`: a usage without
    output counts as none. `partial`: a usage without output is accepted, and its output is estimated. `needs_tokens`: a
    usage without tokens counts as none.
    """

    input: tuple[Path, ...]
    output: tuple[Path, ...]
    cache_outside_input: bool = False
    input_kind: str = "input"
    output_kind: str = "output"
    needs_output: bool = True
    partial: bool = False
    needs_tokens: bool = True


_INPUT: Final[tuple[Path, ...]] = (("input_tokens",), ("prompt_tokens",))
_OUTPUT: Final[tuple[Path, ...]] = (("output_tokens",), ("completion_tokens",))
_BILLED: Final[tuple[Path, ...]] = (("billed_units", "input_tokens"),)
_TOTAL: Final[tuple[Path, ...]] = (("total_tokens",),)

DIALECTS: Final[Mapping[str, UsageFields]] = MappingProxyType(
    {
        "responses": UsageFields(_INPUT, _OUTPUT),
        "chat": UsageFields((("prompt_tokens",), ("input_tokens",)), (("completion_tokens",), ("output_tokens",))),
        "completions": UsageFields(
            (("prompt_tokens",), ("input_tokens",)), (("completion_tokens",), ("output_tokens",))
        ),
        "messages": UsageFields(_INPUT, _OUTPUT, cache_outside_input=True, partial=True),
        "embeddings": UsageFields((*_BILLED, *_INPUT, *_TOTAL), (), needs_output=False),
        "rerank": UsageFields((*_BILLED, *_INPUT, *_TOTAL), (), needs_output=False, needs_tokens=False),
        "images": UsageFields(_INPUT, _OUTPUT, output_kind="output_image", needs_tokens=False),
        "transcription": UsageFields(_INPUT, _OUTPUT, input_kind="input_audio", needs_output=False, needs_tokens=False),
        "speech": UsageFields(_INPUT, _OUTPUT, output_kind="output_audio", needs_output=False, needs_tokens=False),
        "moderations": UsageFields(_INPUT, _OUTPUT, needs_output=False, needs_tokens=False),
    }
)
"""The fields by dialect. A dialect that is not listed is read like `responses`."""


def _names() -> Iterator[str]:
    tables = (CACHED, WRITTEN, REASONING, CITATION, *WRITE_LIFETIMES.values(), *UNITS.values())
    for paths in (*tables, *(fields.input + fields.output for fields in DIALECTS.values())):
        yield from (path[-1] for path in paths)
    yield from (f"{modality}_tokens" for modality in MODALITIES)


KNOWN: Final = frozenset(_names()) | NOT_OF_THEIR_OWN
