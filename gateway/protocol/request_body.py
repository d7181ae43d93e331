"""Step 2: reads the few fields of a request that the gateway needs. The body itself stays bytes.

    read_request_body(body, form) -> RequestBody    or GatewayError: invalid_json, missing_field, invalid_field, ...

The dialect defines the fields (`RequestForm`). A field that both the gateway and the upstream read must mean the same
to both: see `decoded_body`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from gateway.errors import GatewayError
from gateway.protocol.attachments import find_attachments
from gateway.protocol.attribution import LABELLED, NO_LABELS, BodyLabels, read_labels
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
"""The estimated tokens of the member `"max_output_tokens": 1000000000`, with the indent of a line."""
_NEED_NO_INPUT: Final = ("prompt", "conversation", "previous_response_id")
"""A request with one of these needs no input and no model of its own. The provider knows them."""


@dataclass(slots=True)
class HeldBody:
    """The bytes of a request. Mutable: `body` becomes empty when no further upstream will be asked."""

    body: Body


class RequestBody(NamedTuple):
    """The fields of a request that the gateway reads.

    `body` is as the client sent it, and empty once an answer is passed on.
    `max_output_tokens` is the bound for all runs together; None: the request states none. `bounds` are its other
    bounds. `input_tokens_bound` is the most tokens that any tokenizer makes of the input, with `images` counted as the
    largest ones. `store` says that the response may be named later. `background` says that it goes on without its
    caller. `usage_unasked` says that the caller did not ask for the event that reports a stream's usage, and
    `cost_unasked` that it leaves open whether it wants to know the cost. `names_model` says that `model` is in the
    body. Otherwise it is the API's documented default or, with `model_in_prompt`, in a prompt that the provider has
    stored. `form` has the parts of a form with files. `work` is what the provider may do that the body does not show.
    `session` groups requests that belong together. `preferences` is the `provider` object. `places` are the positions
    of members in a large body. `on_disk` is a large form, in place of `body`. `labels` say
    whom it is for.
    """

    held: HeldBody
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
    model_in_prompt: bool = False
    on_disk: Readable | None = None
    labels: BodyLabels = NO_LABELS

    @property
    def body(self) -> Body:
        """The body's bytes."""
        return self.held.body

    @property
    def size_bytes(self) -> int:
        """The size of the body, in memory or on disk."""
        return len(self.body if self.on_disk is None else self.on_disk)


def read_request_body(
    body: Body, form: RequestForm, *, needs_input: bool = False, body_bounds: BodyBounds = DEFAULT_BOUNDS
) -> RequestBody:
    """Reads a request body. Raises GatewayError if a required field is missing or invalid."""
    attachments = find_attachments(body)
    fields, text, places = decode_body(body, attachments, body_bounds, form)
    get = fields.get
    previous_named = "previous_response_id" in form.fields
    is_unnamed, value = get("model") is None, get("input") if needs_input else ""
    may_lack = (is_unnamed or value is None) and previous_named and any(map(get, _NEED_NO_INPUT))
    model = "" if is_unnamed and may_lack else model_of(get("model"), form)
    if value is None and may_lack:
        value = ""
    if value is None:
        raise GatewayError("missing_field", "The field 'input' is required.", param="input")
    if not isinstance(value, (str, list)):  # a union takes three times as long
        raise GatewayError("invalid_field", "'input' must be a string or an array of items.", param="input")
    bounds, stream = form.bounds(fields), form.streams(fields)
    previous, store, session = None, True, get("prompt_cache_key") or get("safety_identifier")
    if previous_named:
        previous, store = get("previous_response_id"), get("store") is not False
    max_output, counted = bounds.output_tokens, bounds.input_tokens
    if counted is None:
        tokens = count_input_tokens(body, attachments, text, form.image, fields, bounds.read_images)
        if repeated := bounds.repeated_bytes:
            estimate = tokens.estimate + repeated // BYTES_PER_TOKEN
            tokens = InputTokens(estimate, tokens.bound + repeated, tokens.images)
    else:
        tokens = InputTokens(counted, counted)
    return RequestBody(
        HeldBody(body),
        model,
        stream,
        None if max_output is None else max_output * bounds.runs + bounds.more_output_tokens,
        None if previous is None else _text(previous, "previous_response_id"),
        tokens.estimate,
        store,
        with_bounds(read_facts(fields), bounds),
        bounds,
        stream and form.usage_on_request and not _asks_usage(get("stream_options")),
        get("model") is not None,
        previous_named and get("background") is True,
        session if isinstance(session, str) else None,
        None if "provider" not in fields else read_preferences(get("provider")),
        input_tokens_bound=tokens.bound,
        images=tokens.images,
        cost_unasked="usage" not in fields or (places is None and _leaves_out(fields["usage"], "include")),
        work=read_work(fields, text),
        places=places,
        model_in_prompt=is_unnamed and previous_named and bool(get("prompt")),
        labels=NO_LABELS if LABELLED.isdisjoint(fields) else read_labels(fields),
    )


def with_bounds(facts: RequestFacts, bounds: Bounds) -> RequestFacts:
    """Adds the facts by which an answer may be priced, and which it may not state."""
    images, units = bounds.images, bounds.units
    if images is not None:
        facts = facts._replace(quality=images.quality, size=images.size)
    if units:
        facts = facts._replace(characters=int(units.get("character", 0)), seconds=float(units.get("second", 0)))
    return facts


def model_of(model: object, form: RequestForm) -> str:
    """Returns the model from the value of a body's field. Raises GatewayError."""
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
    """Whether a caller asks for a stream's usage. An invalid value counts as asking, and the provider refuses it."""
    return options is not None and not (isinstance(options, dict) and options.get("include_usage") is not True)


def _leaves_out(value: object, flag: str) -> bool:
    """Whether an object does not have a flag."""
    return value is None or (isinstance(value, dict) and flag not in value)


def _text(value: object, name: str) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise GatewayError("invalid_field", f"{name!r} must be a string of printable characters.", param=name)
    return value
