"""Observes a stream: the upstream's SSE bytes pass through it (WHATWG HTML, server-sent events).

    upstream bytes -> SseObserver.feed -> bytes to write now: whole events
                          |
                          +--> facts: for the settlement and the closing events, by the dialect's `read_event`

Whole events are passed on at once, and examined when a result is needed or a few KiB have gathered, the cheapest first:
    0. reads that are one event each, with the learnt head of a delta: counted together
    1. ends with a blank line, and its events start with the learnt head of a delta: counted; the others go on
    2. has deltas and none of the marker words: counted, and the head of a delta is learnt
    3. otherwise: each event that contains a marker word is cut out, and only those that need it are parsed

The dialect defines a delta's head and the marker words (`StreamForm`). If all events of a dialect start alike, those
with the learnt head are searched for further content, and all others are parsed. Chunks that end inside an event are
cut at the last blank line, and the rest is held. Beyond `max_event_bytes` it is passed on. No byte is changed;
`usage_dropping` leaves one event out. An event of more than 64 KiB is examined by itself, which takes long: `is_large`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from gateway.protocol.byte_search import find
from gateway.protocol.delta_head import DeltaHead
from gateway.protocol.dialects.dialect import StreamFacts, StreamForm
from gateway.protocol.large_json import DEFAULT_MOST_VALUES, LARGE_BYTES, read_large_event
from gateway.protocol.lenient_json import parse_object
from gateway.protocol.opening_event import OpeningEvent
from gateway.protocol.oversized_event import OversizedEvent
from gateway.protocol.sse_framing import blank_lines, block_at, blocks, fields, first_boundary, last_boundary, lf_lines
from gateway.protocol.text_sample import TextSample, bytes_of_items
from gateway.protocol.token_estimates import BYTES_PER_TOKEN

_BOM: Final = b"\xef\xbb\xbf"
_SEQUENCE: Final = re.compile(rb'"sequence_number"\s*:\s*(\d{1,15})\b')
_RECENT_BYTES: Final = 4_096  # kept of a large read, to find the last sequence number
_SAMPLE_EVERY: Final = 64


@dataclass(slots=True, eq=False)
class SseObserver:
    """Observes one stream. `max_event_bytes` bounds what is held. Mutable, used by one task.

    `form` is the form of its dialect's events. `expected` is the number of choices in its answer.
    """

    form: StreamForm
    max_event_bytes: int
    expected: int = 1
    most_values: int = DEFAULT_MOST_VALUES
    long: list[tuple[bytes, int]] = field(default_factory=list, init=False)  # large events to examine, and their ends
    aligned: bool = field(default=True, init=False)  # what was returned ends at a boundary, so that an event may follow
    bytes_fed: int = field(default=0, init=False)
    _facts: StreamFacts = field(init=False)
    _more: Callable[[bytes], object] | None = field(init=False)  # finds further content in a delta
    _unseen: list[bytes] = field(default_factory=list, init=False)  # whole events that were not examined yet
    _look_at: int = field(default=0, init=False)  # once so many bytes have been fed, they are examined
    _opening: OpeningEvent = field(init=False)
    _deltas: int = field(default=0, init=False)
    _held: list[bytes] = field(default_factory=list, init=False)  # the incomplete event: joined once, when it is whole
    _held_bytes: int = field(default=0, init=False)
    _at_boundary: bool = field(default=True, init=False)  # nothing is held, and nothing was passed on unaligned
    _tail: bytes = field(default=b"\n", init=False)  # the last two bytes seen; a boundary counts as a line end
    _oversized: OversizedEvent = field(init=False)  # the event that is passed on unaligned
    _begun: bool = field(default=False, init=False)
    _delta: DeltaHead = field(init=False)  # how deltas start
    _others: int = field(default=0, init=False)
    _recent: bytes = field(default=b"", init=False)  # the last whole events that carried a sequence number
    _item_bytes: int = field(default=0, init=False)  # bytes of whole items before any delta
    _text: TextSample = field(init=False)
    _sample_at: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        """Begins with what is known of the answer before its first event."""
        self._facts = StreamFacts(expected=self.expected)
        self._opening = OpeningEvent(self.form.opening)
        self._oversized = OversizedEvent(self.form)
        self._delta = DeltaHead(self.form)
        self._text = TextSample(self.form)
        self._more = self.form.says_more and self.form.says_more.search

    def feed(self, data: bytes) -> bytes:
        """Takes what the upstream sent. Returns what may be written now: whole events, unless one exceeds the bound."""
        self.bytes_fed = bytes_fed = self.bytes_fed + len(data)
        if not (self._at_boundary and data.endswith((b"\n\n", b"\n\r\n"))):
            self.look()
            data = self._realign(data)
        else:
            self._unseen.append(data)
            if bytes_fed >= self._look_at:
                self.look()
        return data

    def finish(self, *, clean: bool = True, half: bool = True) -> bytes:
        """The upstream's body has ended; returns the unterminated rest that is still held, as far as it may be written.

        clean=False (cut, reset, stalled): the rest is half an event, and read for usage only.
        half=False: the same where the rest does not end the answer. Half an event is dropped or passed on, as the
        dialect has it.
        """
        self.look()
        rest = self._release()
        seen = replace(self._facts), copy(self._opening)
        if len(rest) > LARGE_BYTES:
            self._take_large(rest, len(rest))
        elif rest:
            self._read(rest)
        else:
            self._oversized.end(self._facts, whole=False)
        whole = clean and (half or self.form.passes_half or self._facts.ended is not None)
        if not whole:
            usage, answer = self._facts.usage, self._facts.answer
            self._facts, self._opening = seen
            self._facts.usage, self._facts.answer = usage, answer
        if not (whole or self.form.passes_half):
            return b""
        if rest:
            self.aligned = rest.endswith(b"\n\r")
        return rest

    @property
    def is_large(self) -> bool:
        """Whether `look` and `finish` take long: there is a large event that was not examined."""
        return bool(self.long) or self._held_bytes > LARGE_BYTES

    @property
    def facts(self) -> StreamFacts:
        """What the events have told."""
        self.look()
        return self._facts

    @property
    def opened(self) -> bool:
        """Whether an opening event has passed before any delta."""
        self.look()
        return self._opening.seen

    @property
    def created(self) -> bytes | None:
        """That event's data, if it is not too long."""
        self.look()
        return self._opening.data

    @property
    def deltas(self) -> int:
        """Events that carried a piece of the output."""
        self.look()
        return self._deltas

    @property
    def has_content(self) -> bool:
        """Whether a client would miss something in another stream. The first delta of `reads_all` may be a role's."""
        self.look()
        return self._facts.has_content or self._deltas > self.form.reads_all or not self.aligned

    @property
    def has_ended(self) -> bool:
        """Whether the client has been told how the answer ended."""
        self.look()
        return self._facts.ended is not None

    @property
    def events(self) -> int:
        """The number of blocks that a blank line ended: events, separate comments; more blank lines may count."""
        return self.deltas + self._others

    @property
    def response_id(self) -> str | None:
        """The answer's id: the terminal event's once it has passed, the opening event's before."""
        return self.facts.response_id or self._opening.response_id

    def last_sequence_number(self) -> int:
        """The number of the last event that had one; if none has, counted as if each had; -1 before any event."""
        self.look()
        numbers = _SEQUENCE.findall(self._recent)
        return int(numbers[-1]) if numbers else self.events - 1

    def output_tokens_estimate(self) -> int:
        """Tokens in what was relayed: one for four bytes; where it was cut, each delta is `delta_tokens` at least."""
        self.look()
        if not self._deltas:
            return -(-self._item_bytes // BYTES_PER_TOKEN)
        tokens = -(-self._text.bytes_of(self._deltas) // BYTES_PER_TOKEN)
        least = self._deltas * self.form.delta_tokens
        return max(tokens, least) if self._facts.ended in (None, "failed") or not tokens else tokens

    def _realign(self, data: bytes) -> bytes:
        window = self._tail + data
        boundary = last_boundary(window)
        if boundary < 0:
            self._tail = window[-2:]
            return self._hold(data)
        cut = boundary - len(self._tail)
        ready, rest = data[:cut], data[cut:]
        if not self.aligned:
            self._leave_oversized(ready)
        else:
            begun = self._held_bytes
            if begun:
                self._held.append(ready)
                ready = self._release()
            look = self._observe if begun <= LARGE_BYTES else partial(self._set_aside, begun)
            look(ready)
        self._tail = (b"\n" + rest)[-2:]
        self._at_boundary = self.aligned = True
        return ready + self._hold(rest)

    def _set_aside(self, begun: int, ready: bytes) -> None:
        """`ready` begins with a large event, of which so many bytes were held. Whole events may follow."""
        cut = begun + first_boundary(self._tail, ready[begun:])
        self.long.append((ready, cut))
        self._unseen += [ready[cut:]] if ready[cut:] else []

    def _hold(self, rest: bytes) -> bytes:
        if not rest:
            return rest
        self._at_boundary = False
        if not self.aligned:
            self._oversized.go_on(rest)
            return rest
        self._held.append(rest)
        self._held_bytes += len(rest)
        return b"" if self._held_bytes <= self.max_event_bytes else self._let_flow()

    def _release(self) -> bytes:
        held, self._held_bytes = b"".join(self._held), 0
        self._held.clear()
        return held

    def _let_flow(self) -> bytes:
        """Passes on the held event, which exceeds the bound, and remembers its type."""
        head = self._release()
        self.aligned = False
        self._oversized.begin(self._plain(head[:_RECENT_BYTES]), head)
        if not self._deltas:
            self._opening.note_type(self._oversized.type)
        self._remember(head)
        return head

    def _leave_oversized(self, ready: bytes) -> None:
        """`ready` ends the oversized event. Whole events may follow in it."""
        cut = first_boundary(self._tail, ready)
        self._oversized.end(self._facts, ready[:cut])
        self._others += 1
        if ready[cut:]:
            self._observe(ready[cut:])

    def look(self) -> None:
        """Level 0, for reads that wait: those that start like a delta and are single events are counted together."""
        unseen, delta, head, lines = self._unseen, self._delta, self._delta.head, self._delta.lines
        while self.long:
            self._take_large(*self.long.pop(0))
        if not unseen:
            return
        ready, reads = b"".join(unseen), 0
        self._look_at = self.bytes_fed + min(2 * len(ready), _RECENT_BYTES)
        if unseen[0].count(b"\n") == lines:
            reads = next((at for at, read in enumerate(unseen) if not read.startswith(head)), len(unseen))
            run = ready if reads == len(unseen) else b"".join(unseen[:reads])
            # From its head to its end, each has at least `lines` line ends. If there are no more, it is one event.
            if reads and delta.has_lines(run, reads * lines) and (self._more is None or self._more(run) is None):
                if self._text.early is not None:
                    self._text.keep(run)
                self._count(reads, unseen[reads - 1])
                ready = ready[len(run) :]
        unseen.clear()
        if ready:
            self._observe(ready)
        if not self._deltas:  # the next read may bring the first one
            self._look_at = 0

    def _take_large(self, ready: bytes, end: int) -> None:
        """Takes one large event by itself. It precedes what else was not examined."""
        form, event = self.form, self._plain(ready[:end])
        name, body = read_large_event(event, self.most_values)
        if body is None:
            self._others += 1
            return
        if not self._deltas:
            self._opening.note(name, body)
            if form.item and find(event, form.item) >= 0:
                self._item_bytes += form.item_bytes(body)
        form.read_event(self._facts, name, body)
        if find(event, form.delta) >= 0:
            self._deltas += 1
            self._text.early = None
            self._text.note(body)
        else:
            self._others += 1
        if isinstance(number := body.get("sequence_number"), int):
            self._recent = b'"sequence_number":%d' % number

    def _count(self, deltas: int, last: bytes) -> None:
        """Counts deltas. `last` ends with the last one."""
        self._deltas += deltas
        self._recent = last
        if self._deltas >= self._sample_at:
            self._sample(last)

    def _observe(self, ready: bytes) -> None:
        """Level 1, for whole events: those before the first delta, a run of deltas, those after it."""
        if self._text.early is not None:
            self._text.keep(ready)
        if not self._deltas and not self.form.reads_all:
            ready = self._open(ready)
        delta = self._delta
        if not ready.startswith(delta.head):
            self._inspect(ready)
            return
        rest, blank = b"", delta.next.removesuffix(delta.head)
        end = ready.find(blank, ready.rfind(delta.next) + 1) + len(blank)  # of the last one with this head
        if end >= len(blank):
            ready, rest = ready[:end], ready[end:]
        deltas = ready.count(delta.next) + 1
        # Between two heads there are at least `lines` line ends. If there are no more, there is nothing else.
        if delta.has_lines(ready, deltas * delta.lines) and (self._more is None or self._more(ready) is None):
            self._count(deltas, ready if deltas == 1 else ready[-_RECENT_BYTES:])
        else:
            self._inspect(ready)
        if rest:
            self._inspect(rest)

    def _open(self, ready: bytes) -> bytes:
        """Examines what precedes the first delta, and learns how deltas start. Returns the rest."""
        if (at := ready.find(self.form.delta)) < 0 or b"\r" in ready or ready.startswith(_BOM):
            return ready
        start, end = block_at(ready, at)
        if start:
            self._inspect(ready[:start])
            ready = ready[start:]
        self._begun = True
        self._delta.learn(ready[: end - start] + b"\n\n")
        return ready

    def _inspect(self, ready: bytes) -> None:
        """Level 2."""
        form = self.form
        deltas = ready.count(form.delta)
        if (
            form.reads_all
            or not (self._deltas and deltas)
            or b"error" in ready
            or any(map(ready.__contains__, form.markers))
        ):
            self._read(ready)
        self._deltas += deltas
        self._others += max(0, blank_lines(ready) - deltas)
        self._remember(ready)
        if deltas:
            self._delta.learn(ready)
            if self._deltas >= self._sample_at:
                self._sample(ready)

    def _read(self, ready: bytes) -> None:
        """Level 3: find the events that may matter by their markers, and take those; or take all."""
        form, text = self.form, self._plain(ready)
        if form.reads_all:
            for block in text.split(b"\n\n"):
                self._take(*fields(block))
            return
        if not self._deltas and form.opening is not None:
            first_delta = text.find(form.delta)
            before = text if first_delta < 0 else text[:first_delta]
            self._opening.find(before)
            if form.item in before:
                self._item_bytes += bytes_of_items(before, form)
        spans = {span for marker in form.markers if marker in text for span in blocks(text, marker)}
        if b"error" in text:
            spans.update(span for span in blocks(text, b"error") if form.error.search(text, *span))
        for start, end in sorted(spans):
            self._take(*fields(text[start:end]))

    def _take(self, name: str, data: bytes) -> None:
        facts = self._facts
        if data.startswith(b"[DONE]"):
            facts.done = True
            facts.end("failed" if facts.error is not None else "completed")
        elif data and (body := parse_object(data)) is not None:
            self.form.read_event(facts, name, body)

    def _sample(self, ready: bytes) -> None:
        """Measures the last delta of these events, as one of many."""
        self._text.add(self._plain(ready))
        self._sample_at = self._deltas + min(self._deltas, _SAMPLE_EVERY)

    def _remember(self, ready: bytes) -> None:
        if (at := ready.rfind(b'"sequence_number"')) >= 0:
            self._recent = ready if len(ready) <= _RECENT_BYTES else ready[at : at + 64]

    def _plain(self, ready: bytes) -> bytes:
        """Returns the events with LF line ends, without a leading byte order mark."""
        if not self._begun:
            self._begun = True
            ready = ready.removeprefix(_BOM)
        return lf_lines(ready)
