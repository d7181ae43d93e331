"""The tap on a stream: it sees the upstream's SSE bytes pass and never changes one (WHATWG HTML, server-sent events).

    upstream bytes -> SseObserver.feed -> bytes to write now: whole events
                          |
                          +--> terminal, usage, done, error_seen, response_id: what the books and the ending need

Whole events go out at once; the look at them waits for a question or a few KiB. How they are looked at, cheapest first:

    0. reads that are one event each, with the learnt head of a delta: counted together
    1. ends with a blank line, and its events start with the learnt head of a delta: counted; others around them go on
    2. has deltas and none of the marker words: counted, and the head is learnt
    3. else: each event in which a marker word stands is cut out, and only the ones that need it are parsed

A marker inside a string ("response.completed" in a delta's text) costs level 3 and no more: the JSON's type decides.
Chunks that end inside an event are cut at the last blank line; the rest is held. Beyond `max_event_bytes` it flows on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from gateway.protocol.lenient_json import parse_object
from gateway.protocol.sse_framing import BLANK_LINE, block_at, blocks, fields, last_boundary
from gateway.protocol.usage_reader import find_usage

TERMINALS: Final = frozenset({"response.completed", "response.incomplete", "response.failed"})
OPENINGS: Final = frozenset({"response.created", "response.queued", "response.in_progress"})

_BOM: Final = b"\xef\xbb\xbf"
_DELTA: Final = b'.delta"'  # the end of a delta's type; inside a JSON string the quote would be escaped
_MARKERS: Final = (b"response.completed", b"response.incomplete", b"response.failed", b"[DONE]")
_ERROR: Final = re.compile(rb'event: ?error|"type"\s*:\s*"error"')
_OPENING: Final = re.compile(rb"response\.(?:created|queued|in_progress)")
_OPENING_TYPE: Final = re.compile(rb'"type"\s*:\s*"response\.(?:created|queued|in_progress)"')
_DELTA_HEAD: Final = re.compile(rb'(?:event:[^\r\n]*\r?\n)?data: ?\{"type": ?"[a-z0-9_.]+\.delta"')
_FIRST_TYPE: Final = re.compile(rb'\s*\{\s*"type"\s*:\s*"([a-z0-9_.]+)"')
_SEQUENCE: Final = re.compile(rb'"sequence_number"\s*:\s*(\d{1,15})\b')

_MAX_OPENING_BYTES: Final = 65_536  # of the opening event, kept for an ending; it repeats the request's instructions
_RECENT_BYTES: Final = 4_096  # kept of a large read, to find the last sequence number in
_TRAIL_BYTES: Final = 16_384  # kept of a terminal event beyond the bound: its usage stands near its end
_SAMPLE_EVERY: Final = 64
_MOST_UNMEASURED: Final = 8
_BYTES_PER_TOKEN: Final = 4

_T = TypeVar("_T")


class _Learnt(Generic[_T]):
    """What a tap has learnt from all that it was fed: it looks before it tells."""

    def __set_name__(self, _: type, name: str) -> None:
        self._field = f"_{name}"

    def __get__(self, observer: SseObserver, _: type) -> _T:
        observer.look()
        value: _T = getattr(observer, self._field)
        return value


@dataclass(slots=True, eq=False)
class SseObserver:
    """One stream's tap; `max_event_bytes` bounds what is held. Mutable, for one stream, used by one task."""

    terminal = _Learnt[str | None]()  # one of TERMINALS: the first such event that has passed
    answer = _Learnt[dict[str, Any] | None]()  # a terminal event's response that reports a usage
    done = _Learnt[bool]()  # `data: [DONE]` has passed
    error_seen = _Learnt[bool]()  # an `error` event has passed
    opened = _Learnt[bool]()  # one of OPENINGS has passed before any delta
    created = _Learnt[bytes | None]()  # that event's data, if not over _MAX_OPENING_BYTES
    deltas = _Learnt[int]()  # events whose type ends in ".delta"

    max_event_bytes: int
    aligned: bool = field(default=True, init=False)  # what was returned ends at a boundary: an event of ours may follow
    bytes_fed: int = field(default=0, init=False)

    _unseen: list[bytes] = field(default_factory=list, init=False)  # whole events that nobody has looked at yet
    _look_at: int = field(default=0, init=False)  # when so many bytes have been fed, they are looked at
    _terminal: str | None = field(default=None, init=False)
    _answer: dict[str, Any] | None = field(default=None, init=False)
    _done: bool = field(default=False, init=False)
    _error_seen: bool = field(default=False, init=False)
    _opened: bool = field(default=False, init=False)
    _created: bytes | None = field(default=None, init=False)
    _deltas: int = field(default=0, init=False)
    _held: bytearray = field(default_factory=bytearray, init=False)  # the unfinished event
    _at_boundary: bool = field(default=True, init=False)  # nothing is held, and nothing has flowed on unaligned
    _tail: bytes = field(default=b"\n", init=False)  # the last two bytes seen; a boundary stands for a line end
    _oversized: str = field(default="", init=False)  # the type of the event that flows on unaligned
    _trail: bytes = field(default=b"", init=False)  # the last bytes of it
    _begun: bool = field(default=False, init=False)
    _delta_head: bytes = field(default=b"\xff", init=False)  # how deltas start; 0xff is not UTF-8: no event starts so
    _delta_next: bytes = field(default=b"\n\n\xff", init=False)  # a blank line and the next head
    _delta_lines: int = field(default=0, init=False)
    _crlf: bool = field(default=False, init=False)
    _others: int = field(default=0, init=False)
    _recent: bytes = field(default=b"", init=False)  # the last whole events that carried a sequence number
    _opening_id: str | None = field(default=None, init=False)
    _terminal_id: str | None = field(default=None, init=False)
    _item_bytes: int = field(default=0, init=False)  # of whole items before any delta
    _unmeasured: list[bytes] = field(default_factory=list, init=False)  # sampled deltas, not yet parsed
    _samples: int = field(default=0, init=False)
    _sampled_bytes: int = field(default=0, init=False)
    _sample_at: int = field(default=1, init=False)

    def feed(self, data: bytes) -> bytes:
        """Take what the upstream sent; returns what may be written now: whole events, unless one is over the bound."""
        self.bytes_fed = bytes_fed = self.bytes_fed + len(data)
        if not (self._at_boundary and data.endswith((b"\n\n", b"\n\r\n"))):
            self.look()
            return self._realign(data)
        self._unseen.append(data)
        if bytes_fed >= self._look_at:
            self.look()
        return data

    def finish(self, *, clean: bool = True, half: bool = True) -> bytes:
        """The upstream's body has ended; returns the unterminated rest that is still held.

        clean=False (cut, reset, stalled): the rest is not to be written, so b"" comes back. It is read for usage only.
        half=False: the same where the rest does not end the response, since it is half an event then.
        """
        self.look()
        rest = bytes(self._held)
        self._held.clear()
        seen = self._terminal, self._done, self._error_seen, self._opened, self._created
        if rest:
            self._read(rest)
        elif self._oversized and (usage := find_usage(self._trail)) is not None:
            self._end_oversized(usage)
        if not clean or not (half or self._terminal or self._done):
            self._terminal, self._done, self._error_seen, self._opened, self._created = seen
            return b""
        if rest:
            self.aligned = rest.endswith(b"\n\r")
        return rest

    @property
    def events(self) -> int:
        """Blocks that a blank line ended: events, and comments that stand alone. Spare blank lines may count."""
        return self.deltas + self._others

    @property
    def response_id(self) -> str | None:
        """The response's id: the terminal event's once it has passed, the opening event's before."""
        self.look()
        if self._terminal_id is None and self._opening_id is None and self._created is not None:
            self._opening_id = _response_id(parse_object(self._created))
        return self._terminal_id or self._opening_id

    def last_sequence_number(self) -> int:
        """The number of the last event that carried one; where none does, counted as if each had; -1 before any."""
        self.look()
        numbers = _SEQUENCE.findall(self._recent)
        return int(numbers[-1]) if numbers else self.events - 1

    def output_tokens_estimate(self) -> int:
        """Tokens in what was relayed, where usage stays unknown: at least one a delta, and one for four bytes of text.

        Text is measured on a sample of the deltas. A stream without deltas is measured by its whole items.
        """
        self.look()
        if not self._deltas:
            return -(-self._item_bytes // _BYTES_PER_TOKEN)
        self._measure()
        text_bytes = -(-self._deltas * self._sampled_bytes // self._samples) if self._samples else 0
        return max(self._deltas, -(-text_bytes // _BYTES_PER_TOKEN))

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
            if self._held:
                self._held += ready
                ready = bytes(self._held)
                self._held.clear()
            self._observe(ready)
        self._tail = (b"\n" + rest)[-2:]
        self._at_boundary = self.aligned = True
        return ready + self._hold(rest)

    def _hold(self, rest: bytes) -> bytes:
        if not rest:
            return rest
        self._at_boundary = False
        if not self.aligned:
            if self._oversized in TERMINALS:
                self._trail = (self._trail + rest)[-_TRAIL_BYTES:]
            return rest
        self._held += rest
        return b"" if len(self._held) <= self.max_event_bytes else self._let_flow()

    def _let_flow(self) -> bytes:
        """The held event is over the bound: let it go, and remember what kind it is."""
        head = bytes(self._held)
        self._held.clear()
        self.aligned = False
        name, data = fields(self._plain(head[:_RECENT_BYTES]))
        first_type = _FIRST_TYPE.match(data)
        self._oversized = first_type[1].decode() if first_type else name
        self._trail = head[-_TRAIL_BYTES:] if self._oversized in TERMINALS else b""
        self._opened = self._opened or (self._oversized in OPENINGS and not self._deltas)
        self._remember(head)
        return head

    def _leave_oversized(self, ready: bytes) -> None:
        """`ready` ends the oversized event; whole events may follow in it."""
        end = BLANK_LINE.search(self._tail + ready)
        cut = max(0, end.end() - len(self._tail)) if end else len(ready)
        self._end_oversized(find_usage(self._trail + ready[:cut]) if self._oversized in TERMINALS else None)
        self._others += 1
        if ready[cut:]:
            self._observe(ready[cut:])

    def _end_oversized(self, usage: dict[str, Any] | None) -> None:
        if self._oversized in TERMINALS:
            self._terminal = self._terminal or self._oversized
            self._answer = self._answer or (usage and {"usage": usage})
        self._error_seen = self._error_seen or self._oversized == "error"
        self._oversized, self._trail = "", b""

    def look(self) -> None:
        """Level 0, for the reads that wait: those that start as a delta are counted together if each is just one."""
        unseen, head, lines = self._unseen, self._delta_head, self._delta_lines
        if not unseen:
            return
        ready, reads = b"".join(unseen), 0
        self._look_at = self.bytes_fed + min(2 * len(ready), _RECENT_BYTES)
        if unseen[0].count(b"\n") == lines:
            reads = next((at for at, read in enumerate(unseen) if not read.startswith(head)), len(unseen))
            run = ready if reads == len(unseen) else b"".join(unseen[:reads])
            # From its head to its end each has `_delta_lines` line ends or more; if no more, it is one event.
            if reads and self._has_lines(run, reads * lines):
                self._count(reads, unseen[reads - 1])
                ready = ready[len(run) :]
        unseen.clear()
        if ready:
            self._observe(ready)
        if not self._deltas:  # the next read may bring the first
            self._look_at = 0

    def _has_lines(self, ready: bytes, lines: int) -> bool:
        """Whether it has so many lines, which end as those of the learnt delta."""
        if ready.count(b"\n") != lines:
            return False
        return ready.count(b"\r\n") == ready.count(b"\r") == lines if self._crlf else b"\r" not in ready

    def _count(self, deltas: int, last: bytes) -> None:
        """So many deltas more; `last` ends with the last one."""
        self._deltas += deltas
        self._recent = last
        if self._deltas >= self._sample_at:
            self._sample(last)

    def _observe(self, ready: bytes) -> None:
        """Level 1, for whole events: those before the first delta, a run of deltas, those behind it."""
        if not self._deltas:
            ready = self._open(ready)
        if not ready.startswith(self._delta_head):
            self._inspect(ready)
            return
        rest, blank = b"", self._delta_next.removesuffix(self._delta_head)
        end = ready.find(blank, ready.rfind(self._delta_next) + 1) + len(blank)  # of the last one with this head
        if end >= len(blank):
            ready, rest = ready[:end], ready[end:]
        deltas = ready.count(self._delta_next) + 1
        # From head to head stand `_delta_lines` line ends or more; if no more, there is nothing else.
        if self._has_lines(ready, deltas * self._delta_lines):
            self._count(deltas, ready if deltas == 1 else ready[-_RECENT_BYTES:])
        else:
            self._inspect(ready)
        if rest:
            self._inspect(rest)

    def _open(self, ready: bytes) -> bytes:
        """Looks at what comes before the first delta, and learns how that starts; returns the rest."""
        if (at := ready.find(_DELTA)) < 0 or b"\r" in ready or ready.startswith(_BOM):
            return ready
        start, end = block_at(ready, at)
        if start:
            self._inspect(ready[:start])
            ready = ready[start:]
        self._begun = True
        self._learn(ready[: end - start] + b"\n\n")
        return ready

    def _inspect(self, ready: bytes) -> None:
        """Level 2."""
        deltas = ready.count(_DELTA)
        if not (self._deltas and deltas) or b"error" in ready or any(map(ready.__contains__, _MARKERS)):
            self._read(ready)
        self._deltas += deltas
        self._others += max(0, _blank_lines(ready) - deltas)
        self._remember(ready)
        if deltas:
            self._learn(ready)
            if self._deltas >= self._sample_at:
                self._sample(ready)

    def _read(self, ready: bytes) -> None:
        """Level 3: find the events that may matter by their markers, and take those."""
        text = self._plain(ready)
        if not self._deltas:
            first_delta = text.find(_DELTA)
            before = text if first_delta < 0 else text[:first_delta]
            self._find_opening(before)
            self._item_bytes += sum(end - start for start, end in blocks(before, b"response.output_item.done"))
        spans = {span for marker in _MARKERS for span in blocks(text, marker)}
        spans.update(span for span in blocks(text, b"error") if _ERROR.search(text, *span))
        for start, end in sorted(spans):
            self._take(*fields(text[start:end]))

    def _take(self, name: str, data: bytes) -> None:
        if data.startswith(b"[DONE]"):
            self._done = True
            return
        if (body := parse_object(data)) is None:
            return
        kind = body.get("type")
        kind = kind if isinstance(kind, str) else name  # clients go by the JSON's type
        if kind == "error":
            self._error_seen = True
        elif kind in TERMINALS:
            self._terminal = self._terminal or kind
            response = body.get("response")
            if isinstance(response, dict):
                if self._answer is None and isinstance(response.get("usage"), dict):
                    self._answer = response
                self._terminal_id = self._terminal_id or _response_id(body)

    def _find_opening(self, text: bytes) -> None:
        at = 0
        while not self._opened and (match := _OPENING.search(text, at)):
            start, at = block_at(text, match.start())
            name, data = fields(text[start:at])
            self._opened = name in OPENINGS or _OPENING_TYPE.search(data) is not None
            if self._opened and len(data) <= _MAX_OPENING_BYTES:
                self._created = data
            elif self._opened:
                self._opening_id = _response_id(parse_object(data))

    def _learn(self, ready: bytes) -> None:
        """Remember how the last delta starts: the next ones will start the same."""
        last = ready.rfind(_DELTA)
        crlf = b"\r\n" in ready
        blank = b"\r\n\r\n" if crlf else b"\n\n"
        start = ready.rfind(blank, 0, last)
        head = _DELTA_HEAD.match(ready, start + len(blank) if start >= 0 else 0)
        if head is not None:
            self._crlf = crlf
            self._delta_head = head[0]
            self._delta_next = blank + head[0]
            self._delta_lines = head[0].count(b"\n") + 2

    def _sample(self, ready: bytes) -> None:
        text = self._plain(ready)
        start, end = block_at(text, text.rfind(_DELTA))
        self._unmeasured.append(text[start:end])
        if len(self._unmeasured) == _MOST_UNMEASURED or end - start > _RECENT_BYTES:
            self._measure()
        self._sample_at = self._deltas + min(self._deltas, _SAMPLE_EVERY)

    def _measure(self) -> None:
        """Parses the samples: where usage comes, nobody asks for them."""
        for block in self._unmeasured:
            delta = (parse_object(fields(block)[1]) or {}).get("delta")
            if isinstance(delta, str):
                self._samples += 1
                self._sampled_bytes += len(delta.encode("utf-8", "replace"))
        self._unmeasured.clear()

    def _remember(self, ready: bytes) -> None:
        if (at := ready.rfind(b'"sequence_number"')) >= 0:
            self._recent = ready if len(ready) <= _RECENT_BYTES else ready[at : at + 64]

    def _plain(self, ready: bytes) -> bytes:
        """With LF line ends, and without the byte order mark that a stream may begin with."""
        if not self._begun:
            self._begun = True
            ready = ready.removeprefix(_BOM)
        return ready.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in ready else ready


def _response_id(body: dict[str, Any] | None) -> str | None:
    response = body.get("response") if body else None
    found = response.get("id") if isinstance(response, dict) else None
    return found if isinstance(found, str) else None


def _blank_lines(ready: bytes) -> int:
    return ready.count(b"\n\n") or ready.count(b"\n\r\n") or ready.count(b"\r\r")
