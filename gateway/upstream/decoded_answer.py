"""An answer that its upstream compressed although the gateway did not ask for it. It is decoded while it arrives.

uncompressed(answer) -> Answer     the same answer if it is not compressed, or in an unknown way

Mutable: how much of it has been read and decoded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from gateway.protocol.stream_decoder import NotValid, StreamDecoder, coding_of
from gateway.types import Headers
from gateway.upstream.buffered_answer import pump_reads
from gateway.upstream.transport import Answer, FaultKind, UpstreamFault

_CODED_BODY_HEADERS: Final = frozenset({b"content-encoding", b"content-length"})


def uncompressed(answer: Answer) -> Answer:
    """Returns the answer, decoded if its headers name a known coding."""
    for name, value in answer.headers:
        if name == b"content-encoding" and (coding := coding_of(value.decode("latin-1"))) is not None:
            return DecodedAnswer(answer, coding)
    return answer


class DecodedAnswer:
    """`transport.Answer` over an answer with a compressed body.

    A read returns at most `stream_decoder.STEP_BYTES`, and the event loop serves others between two reads. A body that
    is cut or invalid ends with the same fault as one whose connection breaks.
    """

    def __init__(self, answer: Answer, coding: str) -> None:
        self.status = answer.status
        self.headers: Headers = [header for header in answer.headers if header[0] not in _CODED_BODY_HEADERS]
        self._answer = answer
        self._decoder = StreamDecoder(coding)
        self._has_all = False  # the decoder has got the whole body
        self._next: bytes = b""  # decoded in advance, which shows whether another piece follows
        self._fault: UpstreamFault | None = None

    @property
    def ended(self) -> bool:
        """See `Answer.ended`."""
        return self._has_all and self._decoder.is_complete and not self._next and self._fault is None

    def read_nowait(self) -> bytes:
        """See `Answer.read_nowait`."""
        piece, self._next = self._next or self._decode(), b""
        if piece:
            self._next = self._decode()
        return piece

    async def read(self) -> bytes:
        """See `Answer.read`."""
        if self._next:
            await self._let_others_run()
        while not (piece := self.read_nowait()):
            if self._fault is not None:
                raise self._fault
            data = await self._answer.read()
            self._has_all = self._answer.ended
            if data:
                self._decoder.give(data)
            elif self._decoder.is_complete:
                return b""
            else:
                self._fault = UpstreamFault(FaultKind.CUT, "the compressed body has no end", sent=True)
        return piece

    async def pump(self, take: Callable[[bytes], bool]) -> bool:
        """See `Answer.pump`."""
        return await pump_reads(self.read, take)

    def abort(self) -> None:
        """See `Answer.abort`."""
        self._next = b""
        self._answer.abort()

    async def _let_others_run(self) -> None:
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.abort()
            raise

    def _decode(self) -> bytes:
        """Returns the next decoded piece of what has arrived, or b""."""
        while self._fault is None:
            try:
                if piece := self._decoder.take():
                    return piece
            except NotValid as error:
                self._fault = UpstreamFault(FaultKind.PROTOCOL, f"the compressed body is not valid: {error}", sent=True)
                self._answer.abort()
                break
            data = self._answer.read_nowait()
            if not data:
                break
            self._has_all = self._answer.ended
            self._decoder.give(data)
        return b""
