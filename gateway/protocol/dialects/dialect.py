"""The definition of a dialect: the format of its requests, answers, streams and errors. The other modules are dialects.

Dialect.request     the fields of a body for the model, the stream, the bound on the output, and the input
Dialect.read_answer JSON answer -> AnswerFacts: its usage, and how it ended
Dialect.stream      StreamForm: the events of a stream and their meaning; None: the dialect has no streams
Dialect.error_body  GatewayError -> the error body that clients of the dialect read
Dialect.headers     request headers of the dialect that are passed on to upstreams
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple

from gateway.errors import GatewayError

Json = dict[str, Any]
Ended = Literal["completed", "incomplete", "failed"]
"""How an answer ended, as the answer itself states."""

NO_UNITS: Final[Mapping[str, Decimal]] = MappingProxyType({})
NO_HEADERS: Final[frozenset[bytes]] = frozenset()
_TRUE: Final = frozenset({"true", "1"})
_FALSE: Final = frozenset({"false", "0"})
_NEVER: Final = re.compile(rb"(?!)")
_SEQUENCE: Final = re.compile(rb'"sequence_number"\s*:\s*(\d{1,15})\b')


class AnswerFacts(NamedTuple):
    """What the gateway reads from a JSON answer. `usage` is the reported object, or None if there is none.

    `in_progress`: the upstream continues to work on the response. `error`: the answer is this error.
    """

    usage: Json | None = None
    ended: Ended = "completed"
    response_id: str | None = None
    in_progress: bool = False
    error: Json | None = None


@dataclass(slots=True)
class StreamFacts:
    """What the events of one stream have contained so far. Mutable: a dialect's `read_event` fills it in.

    `terminal`: the type of the first event that ends an answer. `ended`: how the answer ended; later events do not
    change it. `may_end`: the answer is complete if the stream ends now. `usage`: the reported object, merged over all
    events. `answer`: other fields that select rates, such as `service_tier` and `model`. `begun`: an event that is not
    an error has come. `has_content`: a piece of the output has come. `expected`: the number of requested choices or
    images. `choices`: the indexes of those that have begun. `finished`: the indexes of those that have ended.
    """

    terminal: str | None = None
    ended: Ended | None = None
    may_end: bool = False
    done: bool = False
    error: Json | None = None
    usage: Json | None = None
    answer: Json = field(default_factory=dict)
    response_id: str | None = None
    begun: bool = False
    has_content: bool = False
    expected: int = 1
    choices: frozenset[int] = frozenset()
    finished: frozenset[int] = frozenset()

    def end(self, how: Ended, terminal: str | None = None) -> None:
        """Notes how the answer has ended. Only the first call counts."""
        self.terminal = self.terminal or terminal
        self.ended = self.ended or how

    def fail(self, error: Json) -> None:
        """Notes an error in the stream. Only the first one counts."""
        self.error = error if self.error is None else self.error


class Origin(NamedTuple):
    """What the gateway knows of an answer by itself. `created_at`: Unix time in seconds.

    `continues_upstream`: the upstream continues with the answer after this stream, so that no end of it is made up.
    """

    request_id: str
    model: str
    created_at: int
    continues_upstream: bool = False


class StreamSummary(NamedTuple):
    """What the events of a stream have contained up to one moment. See `StreamFacts` for fields with the same name.

    `has_content`: the client has received output, so that no other stream can replace this one. `response_id`: from the
    terminal event, or else from the opening event. `has_opening`: an opening event has passed before any output.
    `opening`: its data, or None if it is too long. `deltas`: the number of events with a piece of the output. `events`:
    the number of blocks that a blank line ended, events or comments; several blank lines in a row may count as blocks.
    `numbered`: the end of the last events that had a sequence number.
    """

    answer: Json
    terminal: str | None = None
    ended: Ended | None = None
    may_end: bool = False
    done: bool = False
    error: Json | None = None
    usage: Json | None = None
    begun: bool = False
    has_content: bool = False
    response_id: str | None = None
    expected: int = 1
    choices: frozenset[int] = frozenset()
    finished: frozenset[int] = frozenset()
    has_opening: bool = False
    opening: bytes | None = None
    deltas: int = 0
    events: int = 0
    numbered: bytes = b""

    def last_sequence_number(self) -> int:
        """Returns the last sequence number. If no event had one, each counts as numbered. -1: there was no event."""
        numbers = _SEQUENCE.findall(self.numbered)
        return int(numbers[-1]) if numbers else self.events - 1


@dataclass(frozen=True, slots=True)
class Opening:
    """The event that shows an answer before its output. `anywhere` finds it in bytes, `of_type` in its JSON."""

    types: frozenset[str]
    anywhere: re.Pattern[bytes]
    of_type: re.Pattern[bytes]


def no_output(_: Json) -> int:
    """Returns 0, for dialects whose output is not counted."""
    return 0


@dataclass(frozen=True, slots=True)
class StreamForm:
    """The events of a stream: how most of them are recognised without parsing, and how the others are read.

    Deltas are events with a piece of the output. `delta` occurs in each of them, and in few other events. `delta_head`
    matches the start of a delta, up to the point where no other event looks the same, or else up to its piece of
    output. In the latter case `worth_parsing` finds whatever makes an event with such a start worth parsing.

    Events are parsed if one of `markers` or `error` occurs in them. With `reads_all`, every event is parsed that does
    not start like the last delta. `item` occurs in events with a whole output item, whose size is `item_bytes`. A delta
    counts as at least `delta_tokens`, and as the size that `delta_bytes` returns. `drops_usage`: whether an event is a
    usage that the caller did not ask for. `terminals`: the types of events that end an answer.

    `passes_partial_event`: if a stream breaks off inside an event, this event is passed on and closed; otherwise it is
    dropped. `holds_preamble`: events before the output are held back until there is output, so that another upstream
    can still be tried.
    """

    read_event: Callable[[StreamFacts, str, Json], None]
    close_broken: Callable[[StreamSummary, GatewayError, Origin], bytes]
    close_capped: Callable[[StreamSummary, Origin], bytes]
    delta: bytes
    delta_head: re.Pattern[bytes]
    delta_bytes: Callable[[Json], int] | None = None
    item_bytes: Callable[[Json], int] = no_output
    markers: tuple[bytes, ...] = ()
    error: re.Pattern[bytes] = _NEVER
    worth_parsing: re.Pattern[bytes] | None = None
    reads_all: bool = False
    terminals: frozenset[str] = frozenset()
    opening: Opening | None = None
    item: bytes = b""
    delta_tokens: int = 1
    passes_partial_event: bool = True
    holds_preamble: bool = True
    drops_usage: Callable[[Json], bool] | None = None

    def may_end_in(self, data: bytes) -> bool:
        """Whether events in these bytes may contain the usage or the end of the answer."""
        if self.worth_parsing is not None:
            return self.worth_parsing.search(data) is not None
        return any(map(data.__contains__, self.markers))


class RequestedImages(NamedTuple):
    """The images that a request asks for. An empty quality or size: the provider chooses."""

    number: int
    quality: str = ""
    size: str = ""


NO_IMAGES: Final = RequestedImages(0)


class Bounds(NamedTuple):
    """The most that a request may use.

    `output_tokens`: the bound per run, or None if the request states none. `runs`: how many answers are made.
    `choices`: how many of them are returned. `more_output_tokens`: output outside of the bounds of the runs.
    `input_tokens`: None if the body's bytes bound them. `units`: seconds, characters or search units that may be
    priced. `images`: images to make. `read_images`: images to read that no content part announces. `repeated_bytes`:
    bytes of texts that are read several times, without the first time. `usage`: the usage that the request itself
    states, for answers without one.
    """

    output_tokens: int | None = None
    runs: int = 1
    choices: int = 1
    more_output_tokens: int = 0
    input_tokens: int | None = None
    units: Mapping[str, Decimal] = NO_UNITS
    images: RequestedImages | None = None
    read_images: int = 0
    repeated_bytes: int = 0
    usage: Json | None = None


def asks_stream(fields: Mapping[str, Any]) -> bool:
    """Whether a body asks for a stream, read as tolerantly as servers do. Raises GatewayError `invalid_field`."""
    value = fields.get("stream")
    if value is True:
        return True
    if value is None or is_flag_set(value):
        return value is not None
    if str(value).strip().lower() not in _FALSE:
        raise GatewayError("invalid_field", "'stream' must be true or false.", param="stream")
    return False


def is_flag_set(value: object) -> bool:
    """Whether a value means true, read as tolerantly as servers do: true, "True", 1 or "1"."""
    return str(value).strip().lower() in _TRUE if isinstance(value, (bool, int, str)) else False


@dataclass(frozen=True, slots=True)
class RequestForm:
    """The fields of a request's body that the gateway reads.

    `fields`: names that the gateway and the upstream must read alike, so that each may occur only once, in this
    spelling. `bounds`: returns the bounds for the decoded fields; raises GatewayError `invalid_field`. `streams`:
    whether the fields ask for a stream. `has_output`: the answer has output tokens, so that a default is held if the
    body states no bound. `output_fields`: the names of the bound per run; most providers know the last one, newer ones
    the first. `documented_output`: the documented default of the bound; None: the model's maximum. `image`: the type of
    content parts with images. `usage_on_request`: streams report their usage only if the body asks for it.
    `needs_duration`: the duration of an uploaded audio file affects the price. `default_model`: the documented model of
    a body that names none; "": it must name one. `name`: a pattern, made of `fields`, which finds each of them in
    quotes.
    """

    fields: frozenset[str]
    bounds: Callable[[Mapping[str, Any]], Bounds]
    streams: Callable[[Mapping[str, Any]], bool] = asks_stream
    has_output: bool = True
    image: bytes = b""
    output_fields: tuple[str, ...] = ()
    documented_output: int | None = None
    usage_on_request: bool = False
    needs_duration: bool = False
    default_model: str = ""
    name: re.Pattern[bytes] = field(init=False)

    def __post_init__(self) -> None:
        """The group is in a look-ahead, so that only the quote is consumed and two names cannot hide each other."""
        names = "|".join(sorted(self.fields)).encode()
        object.__setattr__(self, "name", re.compile(rb'"(?=(' + names + rb')")'))


@dataclass(frozen=True, slots=True)
class Dialect:
    """One dialect. `name` is the key of its table in `usage_fields`. `multipart`: requests may be forms with files.

    `media`: prefixes of the media types of answers that are neither JSON nor events, and are passed on unread.
    `error_status`: returns the HTTP status that an error under a 200 stands for, or None if it is unknown.
    `output_bytes`: returns the size of an answer's output as bytes of text, for an estimate (output_size.py).
    """

    name: str
    request: RequestForm
    read_answer: Callable[[Json], AnswerFacts]
    error_body: Callable[[GatewayError, str, bool], Json]
    stream: StreamForm | None = None
    headers: frozenset[bytes] = NO_HEADERS
    multipart: bool = False
    media: tuple[bytes, ...] = ()
    error_status: Callable[[Json], int | None] = lambda _: None
    output_bytes: Callable[[Json], int] = no_output


def count(value: object) -> int | None:
    """Returns a count that servers write as 12 or 12.0, or None for anything else."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def text(value: object) -> str | None:
    """Returns the value if it is a text that is not empty."""
    return value if isinstance(value, str) and value else None


def member(value: object, *names: str) -> Json | None:
    """Returns the object at a path of names inside a decoded JSON value, or None."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else None
