"""Large answers and events, which take long to understand: a thread does that, and the loop serves others meanwhile."""

from __future__ import annotations

from functools import partial

from gateway.concurrency.off_loop import OffLoop
from gateway.protocol.dialects.dialect import Json
from gateway.protocol.large_json import LARGE_BYTES, read_large
from gateway.protocol.lenient_json import parse_object
from gateway.protocol.sse_observer import SseObserver
from gateway.upstream.upstream import UpstreamPolicy


async def examine(observer: SseObserver, off_loop: OffLoop) -> None:
    """Has the large events of a stream examined, if there are any."""
    if observer.long:
        await off_loop.run_to_end(observer.look)


async def finish(observer: SseObserver, off_loop: OffLoop) -> bytes:
    """The rest of a stream that has ended with a large event, as `SseObserver.finish` gives it."""
    return await off_loop.run_to_end(partial(observer.finish, half=False))


async def decoded(body: bytes, policy: UpstreamPolicy, off_loop: OffLoop) -> Json | None:
    """A JSON answer as far as it has to be understood; None: it is none."""
    if len(body) <= LARGE_BYTES:
        return parse_object(body)
    return await off_loop.run(partial(read_large, body, policy.max_answer_values))
