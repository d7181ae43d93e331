"""Step 2: the few fields of a request that the gateway reads. Everything else stays bytes.

    read_request_body(body, form) -> RequestBody    or GatewayError: invalid_json, missing_field, invalid_field, ...

What the fields are is the dialect's (`RequestForm`). A field that the gateway reads and the upstream reads too must
mean the same to both: see `decoded_body`.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from gateway.errors import GatewayError
from gateway.protocol.attachments import find_attachments
from gateway.protocol.body_bounds import DEFAULT_BOUNDS, BodyBounds
from gateway.protocol.body_changes import Places
from gateway.protocol.byte_search import Readable
from gateway.protocol.decoded_body import decode_body
from gateway.protocol.dialects.dialect import Bounds, RequestForm
from gateway.protocol.multipart import Form
from gateway.protocol.provider_preferences import Preferences, read_preferences
from gateway.protocol.request_facts import read_facts
from gateway.protocol.request_work import NO_WORK, BodyWork, read_work
from gateway.protocol.token_estimates import BYTES_PER_TOKEN, InputTokens, count_input_tokens
from gateway.protocol.usage_reader import NO_FACTS, RequestFacts
from gateway.types import Body

MAX_MODEL_LENGTH: Final = 256

MAX_OUTPUT_TOKENS_FIELD: Final = 10
"""Tokens, by this module's estimate, of the member `"max_output_tokens": 1000000000`, and a line's indent."""
_INSTEAD: Final = ("prompt", "conversation", "previous_response_id")
"""With one of these a response needs no input and no model of its own: what it takes is the provider's to judge."""


class RequestBody(NamedTuple):
    """A request as far as the gateway reads it. `body`: as it came; `store`: its response may be named later.

    `max_output_tokens`: of all its runs together; None: it does not say. `bounds`: what else it may use.
    `usage_unasked`: its caller did not ask for the event that reports a stream's usage. `cost_unasked`: nor does it say
    whether it wants to know the cost. `names_model`: `model` is its own, and not the one
    that the API documents for a body without. `form`: its parts, where it is a form with files.
    `input_tokens_bound`: no tokenizer makes more of it; `images` count in it as the largest.
    `work`: what it lets its provider do that it does not show.
    `background`: the response goes on without its caller. `session`: what the body says belongs together.
    `preferences`: its `provider` object. `places`: where members of a large body stand.
    `in_prompt`: a prompt that the provider has stored names its model. `on_disk`: a large form, in place of `body`.
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
    images: int = 0
    cost_unasked: bool = False
    work: BodyWork = NO_WORK
    places: Places | None = None
    in_prompt: bool = False
    on_disk: Readable | None = None

    @property
    def size_bytes(self) -> int:
        """Of the body, wherever it is."""
        return len(self.body if self.on_disk is None else self.on_disk)


def read_request_body(
    body: Body, form: RequestForm, *, needs_input: bool = False, body_bounds: BodyBounds = DEFAULT_BOUNDS
) -> RequestBody:
    """Reads a request body. Raises GatewayError for what the contract requires and the body lacks."""
    attachments = find_attachments(body)
    fields, text, places = decode_body(body, attachments, body_bounds, form)
    get = fields.get
    previous_named = "previous_response_id" in form.fields
    is_unnamed, value = get("model") is None, get("input") if needs_input else ""
    goes_on = (is_unnamed or value is None) and previous_named and any(map(get, _INSTEAD))
    model = "" if is_unnamed and goes_on else model_of(get("model"), form)
    if value is None and goes_on:
        value = ""
    if value is None:
        raise GatewayError("missing_field", "The field 'input' is required.", param="input")
    if not isinstance(value, (str, list)):  # a union takes three times as long
        raise GatewayError("invalid_field", "'input' must be a string or an array of items.", param="input")
    bounds, stream = form.bounds(fields), form.streams(fields)
    previous, store, session = None, True, get("prompt_cache_key") or get("safety_identifier")
    if previous_named:
        previous, store = get("previous_response_id"), get("store") is not False
    most, counted = bounds.output_tokens, bounds.input_tokens
    if counted is None:
        tokens = count_input_tokens(body, attachments, text, form.image, fields, bounds.read_images)
        if again := bounds.repeated_bytes:
            tokens = InputTokens(tokens.estimate + again // BYTES_PER_TOKEN, tokens.bound + again, tokens.images)
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
        images=tokens.images,
        cost_unasked="usage" not in fields or (places is None and _leaves_out(fields["usage"], "include")),
        work=read_work(fields, text),
        places=places,
        in_prompt=is_unnamed and previous_named and bool(get("prompt")),
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


def _leaves_out(value: object, flag: str) -> bool:
    """Whether an object says nothing of a flag."""
    return value is None or (isinstance(value, dict) and flag not in value)


def _text(value: object, name: str) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise GatewayError("invalid_field", f"{name!r} must be a string of printable characters.", param=name)
    return value
