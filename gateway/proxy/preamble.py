"""Holds back what precedes the output of a stream, so that another upstream can be tried after an error.

Comments, a chunk with the role, a `message_start` or a `ping` are of no use to a client without output. They wait for
the first piece of output: events for at most `MAX_EVENTS_S`, comments alone for `MAX_COMMENTS_S`. Then they are sent,
and an error that follows is passed on as a part of the stream.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Final, Protocol

from gateway.billing.lifecycle import Outcome
from gateway.concurrency.off_loop import OffLoop
from gateway.http.client import Client
from gateway.protocol.dialects.dialect import Dialect, StreamForm
from gateway.protocol.sse_framer import SseFramer
from gateway.protocol.sse_framing import last_boundary, slice_end
from gateway.protocol.sse_observer import SseObserver
from gateway.proxy.admission import Opened
from gateway.proxy.failover import InvalidAnswer
from gateway.proxy.large_answers import examine
from gateway.proxy.upstream_answer import not_an_answer
from gateway.types import Headers
from gateway.upstream.transport import UpstreamFault

MAX_EVENTS_S: Final = 1.0
MAX_COMMENTS_S: Final = 10.0
MAX_BYTES: Final = 65_536
_COMMENTS: Final = re.compile(rb"(?:\xef\xbb\xbf)?(?:(?::[^\r\n]*+)?(?:\r\n|\n|\r))*+")


class HeldStart(Protocol):
    """The start of a stream that is held back."""

    def check_times(self, now_s: float) -> None:
        """Starts the client's stream if it was held back for too long. To be called about once a second."""


def has_event(data: bytes) -> bool:
    """Whether the data has a complete event, not only comments."""
    if data[:1] != b":" and b"\n\n" in data:
        return True
    comments = _COMMENTS.match(data)
    return last_boundary(data[comments.end() :] if comments else data) > 0


class FirstEvent:
    """Waits for the first event of a stream, which may be an error, for dialects that hold nothing else back. Mutable.

    `begin` is called when the client's stream starts, and returns its head. That is after `MAX_EVENTS_S` at the latest,
    or after `MAX_COMMENTS_S` if only comments have come. Streams whose writes have to be awaited start without waiting.
    """

    def __init__(self, opened: Opened, client: Client, begin: Callable[[], Headers]) -> None:
        self._opened = opened
        self._client = client
        self._begin = begin
        self._data = b""
        self._since_s: float | None = None
        self._has_begun = False

    async def read(self, data: bytes) -> bytes:
        """Reads on behind `data` until there is an event, or until the end. Returns all of it."""
        self._data = data
        while not (self._has_begun or len(self._data) > MAX_BYTES or has_event(self._data)):
            try:
                more = await self._opened.answer.read()
            except UpstreamFault:  # the next read raises it again
                break
            if not more:
                break
            self._data += more
        return self._data

    @property
    def has_begun(self) -> bool:
        """Whether the client's stream has started in the meantime."""
        return self._has_begun

    def check_times(self, now_s: float) -> None:
        """See `HeldStart`."""
        if self._since_s is None:
            self._since_s = now_s
        max_s = MAX_COMMENTS_S if self._data[:1] == b":" else MAX_EVENTS_S
        if not self._has_begun and now_s - self._since_s >= max_s:
            self._has_begun = self._client.start_now(self._opened.answer.status, self._begin())
            self._client.flush()


def begins_with_error(opened: Opened, dialect: Dialect, form: StreamForm, first: bytes) -> bool:
    """Whether the first bytes of a stream contain an error and no output, for dialects that hold nothing else back.

    What comes behind the first slice is no beginning. Raises NotAnAnswer if another upstream may be tried.
    """
    first = first[: slice_end(first, 0)]
    observer = SseObserver(form)
    SseFramer(observer, len(first)).feed(first)
    summary = observer.summary()
    error = summary.error
    if error is None or summary.has_content:
        return False
    if not opened.is_last:
        raise not_an_answer(opened, dialect, error, first)
    return True


class Preamble:
    """Holds back the events before the output of one stream. Mutable.

    `begin` is called when the client's stream starts, and returns its head. `is_refusal`: an error came before any
    output. `unread`: what has come of the stream and was not looked at.
    """

    def __init__(
        self,
        opened: Opened,
        framer: SseFramer,
        dialect: Dialect,
        client: Client,
        begin: Callable[[], Headers],
        off_loop: OffLoop,
    ) -> None:
        self.is_refusal = False
        self.unread = b""
        self._opened = opened
        self._framer = framer
        self._dialect = dialect
        self._client = client
        self._begin = begin
        self._off_loop = off_loop
        self._ready = bytearray()
        self._since_s: float | None = None

    async def read(self) -> bytes:
        """Reads until there is output, or until the end. Returns what has not been sent to the client yet.

        Raises NotAnAnswer for an error before the output if another upstream may be tried, InvalidAnswer for an empty
        stream, and UpstreamFault.
        """
        opened, framer, observer = self._opened, self._framer, self._framer.observer
        self.unread = opened.already_read + opened.answer.read_nowait()
        read = [self.unread]
        while True:
            end = slice_end(self.unread, 0)
            data, self.unread = self.unread[:end], self.unread[end:]
            self._ready += framer.feed(data)
            await examine(observer, self._off_loop)
            summary = observer.summary()
            if self._has_begun:
                break
            if summary.error is not None and not summary.has_content:
                if not opened.is_last:
                    raise not_an_answer(opened, self._dialect, summary.error, b"".join(read))
                self.is_refusal = True
                break
            if summary.has_content or summary.ended is not None or len(self._ready) > MAX_BYTES:
                break
            if self.unread:
                await asyncio.sleep(0)
                continue
            self.unread = await opened.answer.read()
            if not self.unread:
                if not summary.may_end and not self._has_begun:
                    raise InvalidAnswer(Outcome.UPSTREAM_CUT, "The provider's stream ended before it had begun.")
                break
            read.append(self.unread)
        return bytes(self._ready)

    @property
    def _has_begun(self) -> bool:
        """Whether the client's stream has started in the meantime."""
        return self._client.status is not None

    def check_times(self, now_s: float) -> None:
        """See `HeldStart`."""
        if self._has_begun or not self._ready:
            return
        if self._since_s is None:
            self._since_s = now_s
        observer = self._framer.observer
        if observer.large:  # a thread examines the event
            return
        max_s = MAX_EVENTS_S if observer.summary().begun else MAX_COMMENTS_S
        if now_s - self._since_s >= max_s and self._client.start_now(self._opened.answer.status, self._begin()):
            self._client.write_now(bytes(self._ready))
            self._ready.clear()
