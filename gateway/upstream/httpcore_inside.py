"""What the httpx transport needs of httpcore and httpcore shows nowhere in public. Contract tests hold each to it.

close_if_poisoned    bytes after the end of an answer must not become the next one
http2_connection     the connection under a request
leave_stream         a stream that is not wanted any more costs nothing more
"""

import asyncio
from typing import Any, Final

import httpx

_CANCEL: Final = 8  # RFC 9113, 7
_LEAVE_TIMEOUT_S: Final = 1.0  # a few bytes; who does not take them any more loses the connection


async def close_if_poisoned(response: httpx.Response) -> None:
    """Close a connection on which bytes follow the end of the answer, before it goes back to the pool.

    httpcore keeps such bytes in its parser and would read them as the start of the next answer, which may be another
    caller's. It shows its parser nowhere in public; a contract test fails should these names ever change.
    """
    stream: Any = response.stream
    for name in ("_httpcore_stream", "_stream", "_connection"):
        stream = getattr(stream, name)
    if stream._h11_state.trailing_data[0]:  # noqa: SLF001 - see above
        await response.extensions["network_stream"].aclose()


def http2_connection(pool: Any, request: Any) -> Any:
    """Find the HTTP/2 connection under a request of httpcore's pool, which shows none in public."""
    for pooled in pool._requests:  # noqa: SLF001 - as above
        if pooled.request is request:
            return pooled.connection._connection  # noqa: SLF001 - as above
    return None


async def leave_stream(connection: Any, stream_id: int) -> None:
    """Tell the upstream that a stream is not wanted any more; close a connection that no stream can use.

    httpcore forgets a stream that is closed early: the upstream would work on, and each unread byte would take from the
    window that all streams of the connection share, until none could go on.
    """
    state = connection._h2_state  # noqa: SLF001 - httpcore has no public way to reset a stream
    events = connection._events  # noqa: SLF001 - the same
    stream = state.streams.get(stream_id)
    if not connection.is_available():  # after GOAWAY or an error
        if len(events) <= 1:
            await connection.aclose()
    elif stream is not None and not stream.closed:
        state.reset_stream(stream_id, _CANCEL)
        for unread in [getattr(event, "flow_controlled_length", 0) for event in events.get(stream_id, ())]:
            state.acknowledge_received_data(unread, stream_id)
        try:
            async with asyncio.timeout(_LEAVE_TIMEOUT_S):
                await connection._network_stream.write(state.data_to_send())  # noqa: SLF001 - the same
        except BaseException as error:  # cancellation too: half a frame may be out
            await connection.aclose()
            if not isinstance(error, Exception):
                raise
