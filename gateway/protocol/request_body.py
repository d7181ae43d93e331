"""Step 2: the few fields of a request that the gateway reads. Everything else stays bytes.

    read_request_body(body, form) -> RequestBody    or GatewayError: invalid_json, missing_field, invalid_field, ...

What the fields are is the dialect's (`RequestForm`). A field that the gateway reads and the upstream reads too must
mean the same to both. Parsers differ on a field that occurs twice (first or last wins) and on other spellings (Go's
encoding/json ignores case), so a body that has one of them twice at its top level, escaped or in other case, is
refused.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final, NamedTuple

import orjson

from gateway.errors import GatewayError
from gateway.protocol.attachments import MARK, Attachment, cut_attachments, find_attachments
from gateway.protocol.body_bounds import DEFAULT_BOUNDS, BodyBounds, check_bounds
from gateway.protocol.body_changes import members
from gateway.protocol.dialects.dialect import Bounds, RequestForm
from gateway.protocol.multipart import Form
from gateway.protocol.provider_preferences import Preferences, read_preferences
from gateway.protocol.request_facts import read_facts
from gateway.protocol.request_work import NO_WORK, BodyWork, read_work
from gateway.protocol.token_estimates import InputTokens, count_input_tokens
from gateway.protocol.usage_reader import NO_FACTS, RequestFacts
from gateway.types import Body

MAX_MODEL_LENGTH: Final = 256

MAX_OUTPUT_TOKENS_FIELD: Final = 10
"""Tokens, by this module's estimate, of the member `"max_output_tokens": 1000000000`, and a line's indent."""
_LARGE_BYTES: Final = 64 * 1024  # a larger body is read without its attachments

# An escape that stands for "_" or a letter: the only way to spell a field without its plain bytes.
_ESCAPED_LETTER: Final = re.compile(rb"\\u00(?:5[fF]|[4-7][0-9a-fA-F])")
_INSTEAD_OF_INPUT: Final = frozenset({"prompt", "conversation", "previous_response_id"})
"""With one of these a response needs no input of its own: what it takes is the provider's to judge."""


class RequestBody(NamedTuple):
    """A request as far as the gateway reads it. `body`: as it came; `store`: its response may be named later.

    `max_output_tokens`: of all its runs together; None: it does not say. `bounds`: what else it may use.
    `usage_unasked`: its caller did not ask for the event that reports a stream's usage. `names_model`: `model` is its
    own, and not the one that the API documents for a body without. `form`: its parts, where it is a form with files.
    `input_tokens_bound`: no tokenizer makes more of it. `work`: what it lets its provider do that it does not show.
    `background`: the response goes on without its caller. `session`: what the body says belongs together.
    `preferences`: its `provider` object.
    """

    body: Body
    model: str
    stream: bool
    max_output_tokens: int | None
    previous_response_id: str | None
    input_tokens_estimate: int
    store: bool = True
    facts: RequestFacts = NO_FACTS
    bounds: Bounds = Bounds()
    usage_unasked: bool = False
    names_model: bool = True
    background: bool = False
    session: str | None = None
    preferences: Preferences | None = None
    form: Form | None = None
    input_tokens_bound: int = 0
    work: BodyWork = NO_WORK


def read_request_body(
    body: Body, form: RequestForm, *, needs_input: bool = False, body_bounds: BodyBounds = DEFAULT_BOUNDS
) -> RequestBody:
    """Reads a request body. Raises GatewayError for what the contract requires and the body lacks."""
    attachments = find_attachments(body)
    if len(body) > _LARGE_BYTES:
        fields, text = _parse_large(body, attachments, body_bounds)
    else:
        fields, text = _parse_object(body, body), body
    _refuse_other_spellings(text, fields, form)
    get = fields.get
    model = "" if get("model") is None and get("previous_response_id") else model_of(get("model"), form)
    value = get("input") if needs_input else ""
    if value is None and not _INSTEAD_OF_INPUT.isdisjoint(fields):
        value = ""
    if value is None:
        raise GatewayError("missing_field", "The field 'input' is required.", param="input")
    if not isinstance(value, (str, list)):  # a union takes three times as long
        raise GatewayError("invalid_field", "'input' must be a string or an array of items.", param="input")
    bounds, stream = form.bounds(fields), form.streams(fields)
    previous, store, session = None, True, get("prompt_cache_key") or get("safety_identifier")
    if previous_named := "previous_response_id" in form.fields:
        previous, store = get("previous_response_id"), get("store") is not False
    most, counted = bounds.output_tokens, bounds.input_tokens
    if counted is None:
        tokens = count_input_tokens(body, attachments, text, form.image, fields)
    else:
        tokens = InputTokens(counted, counted)
    return RequestBody(
        body,
        model,
        stream,
        None if most is None else most * bounds.runs + bounds.more_output_tokens,
        None if previous is None else _text(previous, "previous_response_id"),
        tokens.estimate,
        store,
        with_bounds(read_facts(fields), bounds),
        bounds,
        stream and form.asks_usage and not _asks_usage(get("stream_options")),
        get("model") is not None,
        previous_named and get("background") is True,
        session if isinstance(session, str) else None,
        None if "provider" not in fields else read_preferences(get("provider")),
        input_tokens_bound=tokens.bound,
        work=read_work(fields, text),
    )


def with_bounds(facts: RequestFacts, bounds: Bounds) -> RequestFacts:
    """Adds what an answer may be priced by and may not say."""
    images, units = bounds.images, bounds.units
    if images is not None:
        facts = facts._replace(quality=images.quality, size=images.size)
    if units:
        facts = facts._replace(characters=int(units.get("character", 0)), seconds=float(units.get("second", 0)))
    return facts


def model_of(model: object, form: RequestForm) -> str:
    """The model of a body's field. Raises GatewayError."""
    if model is None:
        model = form.default_model or None
    if model is None:
        raise GatewayError("missing_field", "The field 'model' is required.", param="model")
    if not isinstance(model, str) or not model.strip() or len(model) > MAX_MODEL_LENGTH or not model.isprintable():
        raise GatewayError(
            "invalid_field", f"'model' must be a model id of 1 to {MAX_MODEL_LENGTH} characters.", param="model"
        )
    return model


def _asks_usage(options: object) -> bool:
    """Whether a caller asks for a stream's usage. What is no object is the provider's to judge, and left alone."""
    return options is not None and not (isinstance(options, dict) and options.get("include_usage") is not True)


def _parse_large(body: Body, attachments: list[Attachment], bounds: BodyBounds) -> tuple[dict[str, Any], Body]:
    """The fields of a large body, and the body without its attachments: to parse those took most of its time."""
    text = cut_attachments(body, attachments)
    check_bounds(text, bounds)
    fields = _parse_object(text, body)
    if text is body or not any(_may_be_cut(value) for value in fields.values()):
        return fields, text
    return _parse_object(body, body), body


def _may_be_cut(value: object) -> bool:
    return isinstance(value, str) and value.endswith(MARK.decode())


def _parse_object(text: Body, body: Body) -> dict[str, Any]:
    """`body`: what the text was cut out of; an error has its place there."""
    try:
        fields = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        fields = _parse_lenient(text, f"The body is not valid JSON: {error if text is body else _error_of(body)}.")
    if not isinstance(fields, dict):
        raise GatewayError("invalid_json", "The body must be a JSON object.")
    return fields


def _error_of(body: Body) -> str:
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError as error:
        return str(error)
    return "it cannot be read"


def _parse_lenient(body: Body, problem: str) -> Any:
    """JSON by the grammar of RFC 8259: half an emoji (a lone surrogate) and 1e400 are in it; upstreams may take it."""
    try:
        return json.loads(body.decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise GatewayError("invalid_json", problem) from None


def _no_constant(name: str) -> Any:
    raise ValueError(name)  # NaN and Infinity are Python's, not JSON's


def _refuse_other_spellings(body: Body, fields: dict[str, Any], form: RequestForm) -> None:
    read = form.fields
    for name in fields:
        if name not in read and name.casefold() in read:
            raise GatewayError(
                "duplicate_field", f"{name!r} could be read as {name.casefold()!r}: write it so.", param=name.casefold()
            )
    names = form.name.findall(body)
    if len(names) == len(set(names)) and (b"\\" not in body or _ESCAPED_LETTER.search(body) is None):
        return
    # Rare: a name occurs deeper too, or is escaped.
    seen: set[str] = set()
    for name, _ in members(body):
        if name in seen:
            raise GatewayError("duplicate_field", f"The field {name!r} occurs twice.", param=name)
        if name in read:
            seen.add(name)


def _text(value: object, name: str) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise GatewayError("invalid_field", f"{name!r} must be a string of printable characters.", param=name)
    return value
