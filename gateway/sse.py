"""The tap on a stream: it sees the upstream's SSE bytes pass and never changes one (WHATWG HTML, server-sent events).

    upstream bytes -> Tap.feed -> bytes to write now: whole events
                          |
                          +--> terminal, usage, done, error_seen, response_id: what the books and the ending need

How a chunk is looked at, cheapest first; each level hands what it does not understand to the next:

    1. ends with a blank line, and its events start with the learnt head of a delta: counted; others around them go on
    2. has deltas and none of the marker words: counted, and the head is learnt
    3. else: each event in which a marker word stands is cut out, and only the ones that need it are parsed

A marker inside a string ("response.completed" in a delta's text) costs level 3 and no more: the JSON's type decides.
Chunks that end inside an event are cut at the last blank line; the rest is held. Beyond `max_event_bytes` it flows on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

from gateway.lenient import parse_object
from gateway.usage import Usage, find_usage, parse_usage

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
_BLANK_LINE: Final = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r)")

_MAX_OPENING_BYTES: Final = 65_536  # of the opening event, kept for an ending; it repeats the request's instructions
_RECENT_BYTES: Final = 4_096  # kept of a large read, to find the last sequence number in
_TRAIL_BYTES: Final = 16_384  # kept of a terminal event beyond the bound: its usage stands near its end
_SAMPLE_EVERY: Final = 64
_MOST_UNMEASURED: Final = 8
_BYTES_PER_TOKEN: Final = 4


@dataclass(slots=True, eq=False)
class Tap:
    """One stream's tap; `max_event_bytes` bounds what is held. Mutable, for one stream, used by one task."""

    max_event_bytes: int
    terminal: str | None = field(default=None, init=False)  # one of TERMINALS: the first such event that has passed
    usage: Usage | None = field(default=None, init=False)  # of a terminal event's response
    done: bool = field(default=False, init=False)  # `data: [DONE]` has passed
    error_seen: bool = field(default=False, init=False)  # an `error` event has passed
    aligned: bool = field(default=True, init=False)  # what was returned ends at a boundary: an event of ours may follow
    opened: bool = field(default=False, init=False)  # one of OPENINGS has passed before any delta
    created: bytes | None = field(default=None, init=False)  # that event's data, if not over _MAX_OPENING_BYTES
    deltas: int = field(default=0, init=False)  # events whose type ends in ".delta"
    bytes_fed: int = field(default=0, init=False)

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
        self.bytes_fed += len(data)
        if not (self._at_boundary and data.endswith((b"\n\n", b"\n\r\n"))):
            return self._realign(data)
        self._observe(data)
        return data

    def finish(self, *, clean: bool = True, half: bool = True) -> bytes:
        """The upstream's body has ended; returns the unterminated rest that is still held.

        clean=False (cut, reset, stalled): the rest is not to be written, so b"" comes back. It is read for usage only.
        half=False: the same where the rest does not end the response, since it is half an event then.
        """
        rest = bytes(self._held)
        self._held.clear()
        seen = self.terminal, self.done, self.error_seen, self.opened, self.created
        if rest:
            self._read(rest)
        elif self._oversized and (usage := find_usage(self._trail)) is not None:
            self._end_oversized(usage)
        if not clean or not (half or self.terminal or self.done):
            self.terminal, self.done, self.error_seen, self.opened, self.created = seen
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
        if self._terminal_id is None and self._opening_id is None and self.created is not None:
            self._opening_id = _response_id(parse_object(self.created))
        return self._terminal_id or self._opening_id

    def last_sequence_number(self) -> int:
        """The number of the last event that carried one; where none does, counted as if each had; -1 before any."""
        numbers = _SEQUENCE.findall(self._recent)
        return int(numbers[-1]) if numbers else self.events - 1

    def output_tokens_estimate(self) -> int:
        """Tokens in what was relayed, where usage stays unknown: at least one a delta, and one for four bytes of text.

        Text is measured on a sample of the deltas. A stream without deltas is measured by its whole items.
        """
        if not self.deltas:
            return -(-self._item_bytes // _BYTES_PER_TOKEN)
        self._measure()
        text_bytes = -(-self.deltas * self._sampled_bytes // self._samples) if self._samples else 0
        return max(self.deltas, -(-text_bytes // _BYTES_PER_TOKEN))

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
        self.opened = self.opened or (self._oversized in OPENINGS and not self.deltas)
        self._remember(head)
        return head

    def _leave_oversized(self, ready: bytes) -> None:
        """`ready` ends the oversized event; whole events may follow in it."""
        end = _BLANK_LINE.search(self._tail + ready)
        cut = max(0, end.end() - len(self._tail)) if end else len(ready)
        self._end_oversized(find_usage(self._trail + ready[:cut]) if self._oversized in TERMINALS else None)
        self._others += 1
        if ready[cut:]:
            self._observe(ready[cut:])

    def _end_oversized(self, usage: Usage | None) -> None:
        if self._oversized in TERMINALS:
            self.terminal = self.terminal or self._oversized
            self.usage = self.usage or usage
        self.error_seen = self.error_seen or self._oversized == "error"
        self._oversized, self._trail = "", b""

    def _observe(self, ready: bytes) -> None:
        """Level 1, for whole events: those before the first delta, a run of deltas, those behind it."""
        if not self.deltas:
            ready = self._open(ready)
        if not ready.startswith(self._delta_head):
            self._inspect(ready)
            return
        rest, lines, deltas = b"", ready.count(b"\n"), 1
        if lines != self._delta_lines:
            blank = self._delta_next.removesuffix(self._delta_head)
            end = ready.find(blank, ready.rfind(self._delta_next) + 1) + len(blank)  # of the last one with this head
            if end >= len(blank):
                ready, rest = ready[:end], ready[end:]
                lines = ready.count(b"\n") if rest else lines
            deltas = ready.count(self._delta_next) + 1
        # From head to head stand `_delta_lines` line ends or more; if no more, there is nothing else.
        if lines == deltas * self._delta_lines and (
            ready.count(b"\r\n") == ready.count(b"\r") == lines if self._crlf else b"\r" not in ready
        ):
            self.deltas += deltas
            self._recent = ready if deltas == 1 else ready[-_RECENT_BYTES:]
            if self.deltas >= self._sample_at:
                self._sample(ready)
        else:
            self._inspect(ready)
        if rest:
            self._inspect(rest)

    def _open(self, ready: bytes) -> bytes:
        """Looks at what comes before the first delta, and learns how that starts; returns the rest."""
        if (at := ready.find(_DELTA)) < 0 or b"\r" in ready or ready.startswith(_BOM):
            return ready
        start, end = _block_at(ready, at)
        if start:
            self._inspect(ready[:start])
            ready = ready[start:]
        self._begun = True
        self._learn(ready[: end - start] + b"\n\n")
        return ready

    def _inspect(self, ready: bytes) -> None:
        """Level 2."""
        deltas = ready.count(_DELTA)
        if not (self.deltas and deltas) or b"error" in ready or any(map(ready.__contains__, _MARKERS)):
            self._read(ready)
        self.deltas += deltas
        self._others += max(0, _blank_lines(ready) - deltas)
        self._remember(ready)
        if deltas:
            self._learn(ready)
            if self.deltas >= self._sample_at:
                self._sample(ready)

    def _read(self, ready: bytes) -> None:
        """Level 3: find the events that may matter by their markers, and take those."""
        text = self._plain(ready)
        if not self.deltas:
            first_delta = text.find(_DELTA)
            before = text if first_delta < 0 else text[:first_delta]
            self._find_opening(before)
            self._item_bytes += sum(end - start for start, end in _blocks(before, b"response.output_item.done"))
        spans = {span for marker in _MARKERS for span in _blocks(text, marker)}
        spans.update(span for span in _blocks(text, b"error") if _ERROR.search(text, *span))
        for start, end in sorted(spans):
            self._take(*fields(text[start:end]))

    def _take(self, name: str, data: bytes) -> None:
        if data.startswith(b"[DONE]"):
            self.done = True
            return
        if (body := parse_object(data)) is None:
            return
        kind = body.get("type")
        kind = kind if isinstance(kind, str) else name  # clients go by the JSON's type
        if kind == "error":
            self.error_seen = True
        elif kind in TERMINALS:
            self.terminal = self.terminal or kind
            response = body.get("response")
            if isinstance(response, dict):
                self.usage = self.usage or parse_usage(response.get("usage"))
                self._terminal_id = self._terminal_id or _response_id(body)

    def _find_opening(self, text: bytes) -> None:
        at = 0
        while not self.opened and (match := _OPENING.search(text, at)):
            start, at = _block_at(text, match.start())
            name, data = fields(text[start:at])
            self.opened = name in OPENINGS or _OPENING_TYPE.search(data) is not None
            if self.opened and len(data) <= _MAX_OPENING_BYTES:
                self.created = data
            elif self.opened:
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
        start, end = _block_at(text, text.rfind(_DELTA))
        self._unmeasured.append(text[start:end])
        if len(self._unmeasured) == _MOST_UNMEASURED or end - start > _RECENT_BYTES:
            self._measure()
        self._sample_at = self.deltas + min(self.deltas, _SAMPLE_EVERY)

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


def last_boundary(window: bytes) -> int:
    """The index behind the last blank line in `window`, -1 if there is none.

    A CR at the end that may be half of a CRLF is none yet where the line before it ended in LF: a blank line that comes
    in two writes loses the event for some clients. Behind another CR it counts at once, or CR streams would lag behind.
    """
    best = window.rfind(b"\n\n") + 2
    if b"\r" in window:
        best = max(best, window.rfind(b"\r\r") + 2, window.rfind(b"\n\r", 0, len(window) - 1) + 2)
        if best > 1 and window[best - 1] == 13 and window[best : best + 1] == b"\n":  # noqa: PLR2004 - 13 is CR
            best += 1
    return best if best > 1 else -1


def split_events(data: bytes) -> list[bytes]:
    """The same bytes, cut behind each blank line."""
    cuts = [0, *(blank.end() for blank in _BLANK_LINE.finditer(data)), len(data)]
    return [data[start:end] for start, end in pairwise(cuts) if start < end]


def fields(block: bytes) -> tuple[str, bytes]:
    """The event name ("" if none) and data of one block of LF lines; several data lines join with LF."""
    name, data = b"", []
    for line in block.split(b"\n"):
        field, _, value = line.partition(b":")
        if field == b"data":
            data.append(value.removeprefix(b" "))
        elif field == b"event":
            name = value.removeprefix(b" ")
    return name.decode("utf-8", "replace"), data[0] if len(data) == 1 else b"\n".join(data)


def _response_id(body: dict[str, Any] | None) -> str | None:
    response = body.get("response") if body else None
    found = response.get("id") if isinstance(response, dict) else None
    return found if isinstance(found, str) else None


def _block_at(text: bytes, at: int) -> tuple[int, int]:
    """Where the block around index `at` starts and ends."""
    start, end = text.rfind(b"\n\n", 0, at), text.find(b"\n\n", at)
    return (start + 2 if start >= 0 else 0), (end if end >= 0 else len(text))


def _blocks(text: bytes, marker: bytes) -> list[tuple[int, int]]:
    """Every block that has `marker` in it, in one pass."""
    found, at = [], 0
    while (at := text.find(marker, at)) >= 0:
        found.append(_block_at(text, at))
        at = found[-1][1]
    return found


def _blank_lines(ready: bytes) -> int:
    return ready.count(b"\n\n") or ready.count(b"\n\r\n") or ready.count(b"\r\r")
