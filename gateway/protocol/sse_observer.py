"""Observes the events of a stream: what they tell is needed for the settlement and for the gateway's closing events.

    SseFramer -> pending: whole events, which nobody has examined yet
                   |
                   +-> examine -> summary: StreamSummary

Events are examined when a summary is needed, or when a few KiB are pending. The cheapest examination comes first:
    0. reads that are one event each and begin with the learnt head of a delta are counted together
    1. events of one read that begin with that head are counted together; the others go on
    2. events with deltas and without any marker are counted, and the head of a delta is learnt
    3. of all others, each event that contains a marker is cut out, and parsed only if it may matter

The dialect defines a delta's head and the markers (`StreamForm`). If all events of a dialect begin alike, those with
the learnt head are searched for further content, and all others are parsed. An event of more than 64 KiB is examined by
itself, because that takes long.
"""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from typing import Final

from gateway.protocol.byte_search import find
from gateway.protocol.delta_head import DeltaHead
from gateway.protocol.dialects.dialect import StreamFacts, StreamForm, StreamSummary
from gateway.protocol.large_json import DEFAULT_MAX_VALUES, LARGE_BYTES, read_large_event
from gateway.protocol.lenient_json import parse_object
from gateway.protocol.opening_event import OpeningEvent
from gateway.protocol.oversized_event import OversizedEvent
from gateway.protocol.sse_framing import blank_lines, block_at, blocks, fields, lf_lines, lf_part
from gateway.protocol.text_sample import TextSample
from gateway.protocol.token_estimates import BYTES_PER_TOKEN
from gateway.types import Body

_BOM: Final = b"\xef\xbb\xbf"
_MAX_PENDING_BYTES: Final = 4_096
_MAX_NUMBERED_BYTES: Final = 4_096  # kept of events, to find the last sequence number
_NUMBER_BYTES: Final = 64  # as many of them contain a sequence number


class SseObserver:
    """Observes the events of one stream. Mutable, used by one task.

    `form`: the form of its dialect's events. `expected`: the number of choices in its answer. `max_values`: how many
    arrays and objects of a large event are read.
    `pending`: whole events that were not examined yet. `large`: large events that were not examined yet, each at the
    beginning of some bytes, with its length. They precede all that is pending.
    """

    __slots__ = (
        "_begun", "_delta_head", "_deltas", "_facts", "_max_values", "_numbered", "_opening", "_others", "_oversized",
        "_text", "form", "large", "pending",
    )  # fmt: skip

    def __init__(self, form: StreamForm, expected: int = 1, max_values: int = DEFAULT_MAX_VALUES) -> None:
        self.form = form
        self.pending: list[bytes] = []
        self.large: list[tuple[Body, int]] = []
        self._max_values = max_values
        self._facts = StreamFacts(expected=expected)
        self._opening = OpeningEvent(form.opening)
        self._delta_head = DeltaHead(form)
        self._text = TextSample(form)
        self._oversized: OversizedEvent | None = None  # the event that is being passed on in part
        self._begun = False  # a byte order mark can no longer follow
        self._deltas = 0
        self._others = 0
        self._numbered = b""  # the end of the last events that had a sequence number

    def summary(self) -> StreamSummary:
        """Examines what is pending, and returns what the events have told so far."""
        self.examine()
        facts, opening, deltas = self._facts, self._opening, self._deltas
        return StreamSummary(
            facts.answer.copy(),
            facts.terminal,
            facts.ended,
            facts.may_end,
            facts.done,
            facts.error,
            facts.usage,
            facts.begun,
            # The first delta of a dialect whose events are all read may only name the role.
            facts.has_content or deltas > self.form.reads_all or self._oversized is not None,
            facts.response_id or opening.response_id(),
            facts.expected,
            facts.choices,
            facts.finished,
            opening.seen,
            opening.data,
            deltas,
            deltas + self._others,
            self._numbered,
        )

    def output_tokens_estimate(self) -> int:
        """Returns an estimate of the tokens in what was passed on: one token for four bytes of text.

        If the stream was cut, each delta is at least `delta_tokens`.
        """
        self.examine()
        if not self._deltas:
            return -(-self._text.item_bytes // BYTES_PER_TOKEN)
        tokens = -(-self._text.bytes_of(self._deltas) // BYTES_PER_TOKEN)
        minimum = self._deltas * self.form.delta_tokens
        return max(tokens, minimum) if self._facts.ended in (None, "failed") or not tokens else tokens

    def exceeds(self, output_tokens: int) -> bool:
        """Whether an answer that has not ended has probably put out more than so many tokens."""
        self.examine()
        return self._facts.ended is None and self.output_tokens_estimate() > output_tokens

    def examine(self) -> int:
        """Examines what is pending. Returns how many bytes may gather before the next time."""
        while self.large:
            self._read_large(*self.large[0])
            del self.large[0]  # not before: until then, `large` shows that it is being examined
        pending = self.pending
        if not pending:
            return 0 if not self._deltas else _MAX_PENDING_BYTES
        events, text, delta_head = b"".join(pending), self._text, self._delta_head
        size = len(events)
        if pending[0].count(b"\n") == delta_head.lines:  # level 0
            head = delta_head.head
            reads = next((at for at, read in enumerate(pending) if not read.startswith(head)), len(pending))
            run = events if reads == len(pending) else b"".join(pending[:reads])
            if reads and delta_head.is_all_of(run, reads):
                if text.early is not None:
                    text.keep(run)
                self._count(reads, pending[reads - 1])
                events = events[len(run) :]
        pending.clear()
        if events:
            if text.early is not None:
                text.keep(events)
            self._examine_events(events)
        if not self._deltas:  # the next read may bring the first one
            return 0
        return min(2 * size, _MAX_PENDING_BYTES)

    def finish(self, rest: Body, *, was_cut: bool) -> bool:
        """Examines what follows the last blank line of a stream that has ended. Returns whether it is to be written.

        See `SseFramer.finish`.
        """
        self.examine()
        if not rest and self._oversized is None:
            return True
        facts, opening = replace(self._facts), copy(self._opening)
        if self._oversized is not None:
            self._oversized.end(self._facts, whole=False)
        elif len(rest) > LARGE_BYTES:
            self._read_large(rest, len(rest))
        else:
            self._read(bytes(rest))
        passes_partial_event = self.form.passes_partial_event
        is_event = not was_cut and (passes_partial_event or self._facts.ended is not None)
        if not is_event:
            facts.usage, facts.answer = self._facts.usage, self._facts.answer
            self._facts, self._opening = facts, opening
        return is_event or passes_partial_event

    def begin_oversized(self, beginning: Body) -> None:
        """Takes the beginning of an event that is too large to be held, and is passed on in part."""
        self.examine()
        self._oversized = OversizedEvent(self.form, self._plain(bytes(beginning[:_MAX_NUMBERED_BYTES])), beginning)
        if not self._deltas:
            self._opening.note_type(self._oversized.type)
        self._remember_number(beginning)

    def continue_oversized(self, data: bytes) -> None:
        """Takes more of that event."""
        if self._oversized is not None:
            self._oversized.add(data)

    def end_oversized(self, last: bytes) -> None:
        """Takes the last part of that event."""
        if self._oversized is not None:
            self._oversized.end(self._facts, last)
            self._oversized = None
        self._others += 1

    def _read_large(self, events: Body, end: int) -> None:
        """Examines a large event by itself, which ends at `end`. No call copies or searches all of it."""
        form, start = self.form, 0
        if not self._begun:
            self._begun, start = True, len(_BOM) if events.startswith(_BOM) else 0
        event = lf_part(events, start, end)
        name, body = read_large_event(event, self._max_values)
        if body is None:
            self._others += 1
            return
        if not self._deltas:
            self._opening.note(name, body)
            if form.item and find(event, form.item) >= 0:
                self._text.item_bytes += form.item_bytes(body)
        form.read_event(self._facts, name, body)
        if find(event, form.delta) >= 0:
            self._deltas += 1
            self._text.early = None
            self._text.add_decoded(body)
        else:
            self._others += 1
        if isinstance(number := body.get("sequence_number"), int):
            self._numbered = b'"sequence_number":%d' % number

    def _count(self, deltas: int, last: bytes) -> None:
        """Counts deltas. `last` ends with the last one."""
        self._deltas += deltas
        self._numbered = last
        if self._deltas >= self._text.next_at:
            self._text.add(self._plain(last), self._deltas)

    def _examine_events(self, events: bytes) -> None:
        """Level 1: splits events into those before the first delta, a run of deltas, and those after it."""
        if not self._deltas and not self.form.reads_all:
            events = self._examine_before_deltas(events)
        delta_head = self._delta_head
        if not events.startswith(delta_head.head):
            self._inspect(events)
            return
        rest, blank = b"", delta_head.next.removesuffix(delta_head.head)
        end = events.find(blank, events.rfind(delta_head.next) + 1) + len(blank)  # of the last one with this head
        if end >= len(blank):
            events, rest = events[:end], events[end:]
        deltas = events.count(delta_head.next) + 1
        if delta_head.is_all_of(events, deltas):
            self._count(deltas, events if deltas == 1 else events[-_MAX_NUMBERED_BYTES:])
        else:
            self._inspect(events)
        if rest:
            self._inspect(rest)

    def _examine_before_deltas(self, events: bytes) -> bytes:
        """Examines what precedes the first delta, and learns how deltas begin. Returns the other events."""
        if (at := events.find(self.form.delta)) < 0 or b"\r" in events or events.startswith(_BOM):
            return events
        start, end = block_at(events, at)
        if start:
            self._inspect(events[:start])
            events = events[start:]
        self._begun = True
        self._delta_head.learn(events[: end - start] + b"\n\n")
        return events

    def _inspect(self, events: bytes) -> None:
        """Level 2: counts events, and decides whether they have to be read."""
        form = self.form
        deltas = events.count(form.delta)
        if (
            form.reads_all
            or not (self._deltas and deltas)
            or b"error" in events
            or any(map(events.__contains__, form.markers))
        ):
            self._read(events)
        self._deltas += deltas
        self._others += max(0, blank_lines(events) - deltas)
        self._remember_number(events)
        if deltas:
            self._delta_head.learn(events)
            if self._deltas >= self._text.next_at:
                self._text.add(self._plain(events), self._deltas)

    def _read(self, events: bytes) -> None:
        """Level 3: finds the events that may matter by their markers, and parses them; or parses all."""
        form, text = self.form, self._plain(events)
        if form.reads_all:
            for block in text.split(b"\n\n"):
                self._read_event(*fields(block))
            return
        if not self._deltas and form.opening is not None:
            first_delta = text.find(form.delta)
            before = text if first_delta < 0 else text[:first_delta]
            self._opening.find(before)
            if form.item in before:
                self._text.add_items(before)
        spans = {span for marker in form.markers if marker in text for span in blocks(text, marker)}
        if b"error" in text:
            spans.update(span for span in blocks(text, b"error") if form.error.search(text, *span))
        for start, end in sorted(spans):
            self._read_event(*fields(text[start:end]))

    def _read_event(self, name: str, data: bytes) -> None:
        facts = self._facts
        if data.startswith(b"[DONE]"):
            facts.done = True
            facts.end("failed" if facts.error is not None else "completed")
        elif data and (body := parse_object(data)) is not None:
            self.form.read_event(facts, name, body)

    def _remember_number(self, events: Body) -> None:
        if (at := events.rfind(b'"sequence_number"')) >= 0:
            self._numbered = bytes(events if len(events) <= _MAX_NUMBERED_BYTES else events[at : at + _NUMBER_BYTES])

    def _plain(self, events: bytes) -> bytes:
        """Returns the events with LF line ends, without a leading byte order mark."""
        if not self._begun:
            self._begun = True
            events = events.removeprefix(_BOM)
        return lf_lines(events)
