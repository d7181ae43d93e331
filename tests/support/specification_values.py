"""Values that the specification allows, for hypothesis: what clients may ask, and what a provider may answer.

requests()     the members of a request beside its model and input
inputs()       a request's input: a text, or items with their calls answered
answers()      a provider's whole response, completed, incomplete or failed
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from hypothesis import strategies as st

from tests.support.specification import validate

Json = dict[str, Any]
JsonValues = st.SearchStrategy[Json]

TEXT: Final = st.text(max_size=12)
NAME: Final = st.from_regex(r"\A[a-zA-Z0-9_-]{1,20}\Z")
_NULL: Final = st.none()
_STATUS: Final = st.sampled_from(["in_progress", "completed", "incomplete"])
_ID: Final = st.sampled_from(["msg_0", "rs_0", "", "an id with blanks", "x" * 300, "item_1"]) | TEXT
"""Ids as providers and clients give them: some occur twice, some are none."""
_USAGE: Final = {
    "input_tokens": 7,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens": 3,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 10,
}


def _with(required: Json, optional: Json | None = None) -> JsonValues:
    return st.fixed_dictionaries({name: _strategy(value) for name, value in required.items()}, optional=optional or {})


def _strategy(value: Any) -> st.SearchStrategy[Any]:
    return value if isinstance(value, st.SearchStrategy) else st.just(value)


_CITATION: Final = _with({"type": "url_citation", "start_index": 0, "end_index": 1, "url": TEXT, "title": TEXT})
_IMAGE: Final = _with(
    {"type": "input_image"},
    {"image_url": _NULL | st.just("data:image/png;base64,AAAA"), "detail": _NULL | st.sampled_from(["low", "auto"])},
)
_FILE: Final = _with(
    {"type": "input_file", "file_data": "data:text/plain;base64,AAAA"}, {"filename": _NULL | TEXT, "file_url": _NULL}
)
_GIVEN_TEXT: Final = _with({"type": "input_text", "text": TEXT})
_GIVEN_PARTS: Final = st.lists(_GIVEN_TEXT | _IMAGE | _FILE, max_size=3)
_SAID_PARTS: Final = st.lists(
    _with({"type": "output_text", "text": TEXT}, {"annotations": st.lists(_CITATION, max_size=1)})
    | _with({"type": "refusal", "refusal": TEXT}),
    max_size=3,
)
_OF_ANY_ITEM: Final[Json] = {"id": _NULL | _ID}
_OF_ANY_MESSAGE: Final[Json] = {**_OF_ANY_ITEM, "status": _NULL | _STATUS | TEXT}
_MESSAGE: Final = (
    _with({"type": "message", "role": "user", "content": TEXT | _GIVEN_PARTS}, _OF_ANY_MESSAGE)
    | _with(
        {"type": "message", "role": st.sampled_from(["system", "developer"]), "content": TEXT | st.lists(_GIVEN_TEXT)},
        _OF_ANY_MESSAGE,
    )
    | _with(
        {"type": "message", "role": "assistant", "content": TEXT | _SAID_PARTS},
        {**_OF_ANY_MESSAGE, "phase": st.sampled_from(["commentary", "final_answer"])},
    )
)
_SUMMARY: Final = st.lists(_with({"type": "summary_text", "text": TEXT}), max_size=2)
_REASONING: Final = _with(
    {"type": "reasoning", "summary": _SUMMARY}, {**_OF_ANY_ITEM, "content": _NULL, "encrypted_content": _NULL | TEXT}
)
_CALL: Final = _with(
    {"type": "function_call", "name": NAME, "arguments": TEXT}, {**_OF_ANY_ITEM, "status": _NULL | _STATUS}
)
_RESULT: Final = _with(
    {"type": "function_call_output", "output": TEXT | _GIVEN_PARTS}, {**_OF_ANY_ITEM, "status": _NULL | _STATUS}
)


def _numbered(groups: Sequence[tuple[Json, ...]], calls: str) -> list[Json]:
    """The items of all groups. The call of each has a `call_id` of its own, as has what answers it."""
    items = [
        {**item, "call_id": f"{calls}_{number}"} if item["type"].startswith("function_call") else item
        for number, group in enumerate(groups)
        for item in group
    ]
    for item in items:
        validate("ItemParam", item)
    return items


def item_lists(calls: str) -> st.SearchStrategy[list[Json]]:
    """Items of an input, each call followed by its output. `calls`: how the ids of the calls begin."""
    groups = st.tuples(_MESSAGE) | st.tuples(_REASONING) | st.tuples(_CALL, _RESULT)
    return st.lists(groups, min_size=1, max_size=4).map(partial(_numbered, calls=calls))


def inputs() -> st.SearchStrategy[str | list[Json]]:
    """A request's input."""
    return st.text(min_size=1, max_size=12) | item_lists("asked")


_FUNCTION: Final = _with(
    {"type": "function", "name": NAME},
    {"description": _NULL | TEXT, "parameters": _NULL | st.just({"type": "object"}), "strict": st.booleans()},
)
_NAMED: Final = _with({"type": "function", "name": NAME})
_FORMAT: Final = _with({"type": "text"}) | _with(
    {"type": "json_schema", "name": NAME, "schema": {"type": "object"}},
    {"description": TEXT, "strict": _NULL | st.booleans()},
)
_NUMBER: Final = st.integers(0, 2) | st.floats(0, 2)
_MEMBERS: Final[Json] = {
    "tools": _NULL | st.lists(_FUNCTION, max_size=2),
    "tool_choice": _NULL
    | st.sampled_from(["none", "auto", "required"])
    | _NAMED
    | _with(
        {"type": "allowed_tools", "tools": st.lists(_NAMED, min_size=1, max_size=2)}, {"mode": st.just("required")}
    ),
    "metadata": _NULL | st.dictionaries(TEXT, TEXT, max_size=3),
    "text": _NULL | _with({}, {"format": _NULL | _FORMAT, "verbosity": st.sampled_from(["low", "high"])}),
    "temperature": _NULL | _NUMBER,
    "top_p": _NULL | _NUMBER,
    "presence_penalty": _NULL | _NUMBER,
    "frequency_penalty": _NULL | _NUMBER,
    "parallel_tool_calls": _NULL | st.booleans(),
    "max_output_tokens": _NULL | st.integers(16, 100),
    "max_tool_calls": _NULL | st.integers(1, 9),
    "reasoning": _NULL | _with({}, {"effort": _NULL | st.just("low"), "summary": _NULL | st.just("auto")}),
    "safety_identifier": _NULL | TEXT,
    "prompt_cache_key": _NULL | TEXT,
    "truncation": st.sampled_from(["auto", "disabled"]),
    "instructions": _NULL | TEXT,
    "top_logprobs": _NULL | st.integers(0, 20),
}


def _request(members: Json) -> Json:
    validate("CreateResponseBody", members)
    return members


def requests() -> JsonValues:
    """The members of a request, beside its model and input."""
    return _with({}, _MEMBERS).map(_request)


_LOGPROB: Final = _with({"token": TEXT, "logprob": -0.5, "bytes": [65], "top_logprobs": []})
_TEXT_PART: Final = _with(
    {"type": "output_text", "text": TEXT, "annotations": st.lists(_CITATION, max_size=1)},
    {"logprobs": st.lists(_LOGPROB, max_size=1)},
)
_OUTPUT_MESSAGE: Final = _with(
    {
        "type": "message",
        "id": _ID,
        "role": "assistant",
        "status": _STATUS,
        "content": st.lists(_TEXT_PART | _with({"type": "refusal", "refusal": TEXT}), max_size=3),
    }
)
_OUTPUT_REASONING: Final = _with(
    {"type": "reasoning", "id": _ID, "summary": _SUMMARY},
    {"content": st.lists(_with({"type": "reasoning_text", "text": TEXT}), max_size=1), "encrypted_content": TEXT},
)
_OUTPUT_CALL: Final = _with(
    {"type": "function_call", "id": _ID, "call_id": NAME, "name": NAME, "arguments": TEXT, "status": _STATUS}
)
_ENDS: Final = (
    {"status": "completed", "completed_at": 1_795_000_001},
    {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}},
    {"status": "failed", "error": {"code": "server_error", "message": "No."}},
)


def _answer(end: Json, output: list[Json], identifier: str, usage: Json | None) -> Json:
    found = {**whole_response(), **end, "output": output, "id": identifier, "usage": usage}
    validate("ResponseResource", found)
    return found


def answers() -> JsonValues:
    """A provider's responses."""
    output = st.lists(_OUTPUT_MESSAGE | _OUTPUT_REASONING | _OUTPUT_CALL, max_size=3)
    identifier = st.sampled_from(["gen-1", "resp_taken"]) | TEXT
    return st.builds(_answer, st.sampled_from(_ENDS), output, identifier, _NULL | st.just(_USAGE))


def whole_response(text: str | None = None) -> Json:
    """A completed response with every member that the specification requires, and with this text as its output."""
    part: Json = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    message = {"type": "message", "id": "msg_0", "role": "assistant", "status": "completed", "content": [part]}
    return {
        "id": "gen-1",
        "object": "response",
        "created_at": 1_795_000_000,
        "completed_at": None,
        "status": "completed",
        "incomplete_details": None,
        "model": "openai/gpt-5.2",
        "previous_response_id": None,
        "instructions": None,
        "output": [] if text is None else [message],
        "error": None,
        "tools": [],
        "tool_choice": "auto",
        "truncation": "disabled",
        "parallel_tool_calls": True,
        "text": {"format": {"type": "text"}},
        "top_p": 1,
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "top_logprobs": 0,
        "temperature": 1,
        "reasoning": None,
        "usage": _USAGE,
        "max_output_tokens": None,
        "max_tool_calls": None,
        "store": False,
        "background": False,
        "service_tier": "default",
        "metadata": {},
        "safety_identifier": None,
        "prompt_cache_key": None,
    }
