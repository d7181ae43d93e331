"""Parses large answers and events in a thread, so that the event loop serves other requests meanwhile."""

from __future__ import annotations

from functools import partial

from gateway.concurrency.off_loop import OffLoop
from gateway.protocol.dialects.dialect import Json
from gateway.protocol.large_json import LARGE_BYTES, read_large
from gateway.protocol.lenient_json import parse_object
from gateway.protocol.sse_framer import SseFramer
from gateway.protocol.sse_observer import SseObserver
from gateway.types import Body
from gateway.upstream.upstream import UpstreamPolicy


async def examine(observer: SseObserver, off_loop: OffLoop) -> None:
    """Examines the large events of a stream, if there are any."""
    if observer.large:
        await off_loop.run_to_end(observer.examine)


async def finish(framer: SseFramer, off_loop: OffLoop, *, was_cut: bool = False) -> Body:
    """Ends a stream: see `SseFramer.finish`."""
    work = partial(framer.finish, was_cut=was_cut)
    return await off_loop.run_to_end(work) if framer.takes_long else work()


async def decode_answer(body: bytes, policy: UpstreamPolicy, off_loop: OffLoop) -> Json | None:
    """Returns the needed fields of a JSON answer, or None if it is not a JSON object."""
    if len(body) <= LARGE_BYTES:
        return parse_object(body)
    return await off_loop.run(partial(read_large, body, policy.max_answer_values))
