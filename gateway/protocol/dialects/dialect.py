"""What a dialect consists of: how its requests, answers, streams and errors look. The modules beside it fill it in.

Dialect.request     where a body names model, stream, output bound and input
Dialect.read_answer JSON answer -> AnswerFacts: its usage, how it ended
Dialect.stream      StreamForm: how events are told apart, and what each tells; None: it has no streams
Dialect.error_body  GatewayError -> the error body that its clients read
Dialect.headers     request headers that its clients send and its upstreams read
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
"""How an answer ended by its own word."""

NO_UNITS: Final[Mapping[str, Decimal]] = MappingProxyType({})
NO_HEADERS: Final[frozenset[bytes]] = frozenset()
_TRUE: Final = frozenset({"true", "1"})
_FALSE: Final = frozenset({"false", "0"})
_NEVER: Final = re.compile(rb"(?!)")
_SEQUENCE: Final = re.compile(rb'"sequence_number"\s*:\s*(\d{1,15})\b')


class AnswerFacts(NamedTuple):
    """What a JSON answer tells. `usage`: the raw object, as its upstream reported it; None: it reported none.

    `in_progress`: the upstream works on, unseen. `error`: the error that it is instead of an answer.
    """

    usage: Json | None = None
    ended: Ended = "completed"
    response_id: str | None = None
    in_progress: bool = False
    error: Json | None = None


@dataclass(slots=True)
class StreamFacts:
    """What the events of one stream have told so far. Mutable: a dialect's `read_event` fills it in.

    `terminal`: the type of the first event that ends an answer. `ended`: how the answer ended, once nothing that
    follows can change it. `may_end`: nothing that matters is missing, so that a clean end ends the answer well.
    `usage`: the raw object, merged over all events. `answer`: what else picks rates (`service_tier`, `model` ...).
    `begun`: something else than an error has come. `has_content`: a piece of the output has come. `expected`: how many
    choices (or images) the request asked for; `choices`: the indexes of those that have begun; `finished`: of those
    that have ended.
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
    choices: set[int] = field(default_factory=set)
    finished: set[int] = field(default_factory=set)

    def end(self, how: Ended, terminal: str | None = None) -> None:
        """The answer has ended so; the first end stays."""
        self.terminal = self.terminal or terminal
        self.ended = self.ended or how

    def fail(self, error: Json) -> None:
        """The stream tells of an error; the first one stays."""
        self.error = error if self.error is None else self.error


class Origin(NamedTuple):
    """What the gateway knows of an answer where its upstream has shown nothing. `created_at`: Unix time in seconds.

    `continues_upstream`: the answer goes on at its upstream whatever becomes of this stream: nothing of it is made up.
    """

    request_id: str
    model: str
    created_at: int
    continues_upstream: bool = False


class StreamSummary(NamedTuple):
    """What the events of a stream have told up to one moment. What has the name of one of `StreamFacts` is the same.

    `has_content`: a client would miss something in another stream. `response_id`: as the terminal event shows it, or
    else the opening event. `has_opening`: an opening event has passed before any output; `opening`: its data, None if
    it is too long. `deltas`: events that carried a piece of the output. `events`: blocks that a blank line ended,
    whether events or comments; several blank lines in a row may count. `numbered`: the end of the last events that had
    a sequence number.
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
        """Returns the number of the last event that had one; if none had, as if each had one; -1 before any event."""
        numbers = _SEQUENCE.findall(self.numbered)
        return int(numbers[-1]) if numbers else self.events - 1


@dataclass(frozen=True, slots=True)
class Opening:
    """The event that shows an answer before its output. `anywhere` finds it, `of_type` tells it by its JSON."""

    types: frozenset[str]
    anywhere: re.Pattern[bytes]
    of_type: re.Pattern[bytes]


def no_output(_: Json) -> int:
    """What is put out is not counted."""
    return 0


@dataclass(frozen=True, slots=True)
class StreamForm:
    """How a stream's events are told apart without parsing most of them, and what the others tell.

    `delta` stands in every event that carries a piece of output, and outside such events in few. `delta_head` matches
    the start of one, up to what tells it from all other events or, where nothing does, up to its piece: then
    `says_more` finds what makes an event with such a head worth parsing. `reads_all`: what does not start as the last
    delta did is parsed, event by event; else only events in which one of `markers`, or `error`, stands. `item` stands
    in events that carry a whole piece of output at once, whose size `item_bytes` gives. `delta_tokens`: that a delta is
    at least; what it adds counts where `delta_bytes` gives it. `drops_usage`: whether an event is a usage that a caller
    did not ask for. `terminals`: types of events that end an answer. `passes_half`: the half event in which a stream
    breaks off goes to the client, and is closed; else it is dropped. `holds_preamble`: what comes before the output
    waits for it, so that another upstream may still be asked.
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
    says_more: re.Pattern[bytes] | None = None
    reads_all: bool = False
    terminals: frozenset[str] = frozenset()
    opening: Opening | None = None
    item: bytes = b""
    delta_tokens: int = 1
    passes_half: bool = True
    holds_preamble: bool = True
    drops_usage: Callable[[Json], bool] | None = None

    def may_end_in(self, data: bytes) -> bool:
        """Whether events in these bytes may tell what the answer used, or how it ended."""
        if self.says_more is not None:
            return self.says_more.search(data) is not None
        return any(map(data.__contains__, self.markers))


class ImagesAsked(NamedTuple):
    """Pictures that a request asks for; an empty quality or size: the provider chooses."""

    number: int
    quality: str = ""
    size: str = ""


NO_IMAGES: Final = ImagesAsked(0)


class Bounds(NamedTuple):
    """What a request may use. `output_tokens`: of one run; None: it does not say. `runs`: so many times that.

    `choices`: how many of them come back. `more_output_tokens`: in any case, beside those of the runs.
    `input_tokens`: where the body's bytes do not tell; None: they do.
    `units`: what may be priced by the piece: seconds, characters, search units. `images`: pictures to make;
    `read_images`: pictures to read, where no type of a part tells. `repeated_bytes`: of texts that are read more than
    once, beyond the first time.
    `usage`: what was used as far as the request itself tells, for answers that report none.
    """

    output_tokens: int | None = None
    runs: int = 1
    choices: int = 1
    more_output_tokens: int = 0
    input_tokens: int | None = None
    units: Mapping[str, Decimal] = NO_UNITS
    images: ImagesAsked | None = None
    read_images: int = 0
    repeated_bytes: int = 0
    usage: Json | None = None


def asks_stream(fields: Mapping[str, Any]) -> bool:
    """Whether a body asks for a stream, as loosely as servers take `stream`. Raises GatewayError `invalid_field`."""
    value = fields.get("stream")
    if value is True:
        return True
    if value is None or is_flag_set(value):
        return value is not None
    if str(value).strip().lower() not in _FALSE:
        raise GatewayError("invalid_field", "'stream' must be true or false.", param="stream")
    return False


def is_flag_set(value: object) -> bool:
    """Whether a value says "true" as loosely as servers take it: true, "True", 1, "1"."""
    return str(value).strip().lower() in _TRUE if isinstance(value, (bool, int, str)) else False


@dataclass(frozen=True, slots=True)
class RequestForm:
    """Where a body names what the gateway reads.

    `fields`: names that gateway and upstream must read alike: each once at most, and spelt so. `bounds`: of the decoded
    fields; raises GatewayError `invalid_field`. `streams`: whether they ask for a stream.
    `has_output`: it puts tokens out, so that where it does not say how many, a default is held. `output_fields`: where
    it may say how many of one run, the name that most providers know first. `documented_output`: what the API documents
    for a body that does not say; None: what the model can.
    `image`: the type of a part that is an image. `asks_usage`: its streams report usage where they are asked to.
    `needs_duration`: the length of an uploaded file of sound bears on its price.
    `default_model`: what the API documents for a body without a model; "": it must name one.
    `name`: made of `fields`; finds each of them, quoted.
    """

    fields: frozenset[str]
    bounds: Callable[[Mapping[str, Any]], Bounds]
    streams: Callable[[Mapping[str, Any]], bool] = asks_stream
    has_output: bool = True
    image: bytes = b""
    output_fields: tuple[str, ...] = ()
    documented_output: int | None = None
    asks_usage: bool = False
    needs_duration: bool = False
    default_model: str = ""
    name: re.Pattern[bytes] = field(init=False)

    def __post_init__(self) -> None:
        """The group is in a look-ahead, so that only the quote is consumed and two names cannot hide each other."""
        names = "|".join(sorted(self.fields)).encode()
        object.__setattr__(self, "name", re.compile(rb'"(?=(' + names + rb')")'))


@dataclass(frozen=True, slots=True)
class Dialect:
    """One dialect. `name`: by which `usage_fields` has its table. `multipart`: requests may be forms with files.

    `media`: types of answers, as prefixes, that are neither JSON nor events and pass as they come.
    `error_status`: the HTTP status that an error in an answer of status 200 stands for; None: it does not say.
    `output_bytes`: the size of what an answer puts out, as bytes of text, for an estimate (output_size.py).
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
    """A count as servers write it, 12 or 12.0; None for anything else."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def text(value: object) -> str | None:
    """The value, if it is a text that says something."""
    return value if isinstance(value, str) and value else None


def member(value: object, *names: str) -> Json | None:
    """The object at a path of names inside a decoded JSON value; None where there is none."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else None
