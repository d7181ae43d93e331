"""Which headers pass between clients and upstreams, in both directions: one table. Pure.

| header                                      | to upstream   | to client | why                                       |
|---------------------------------------------|---------------|-----------|-------------------------------------------|
| accept, user-agent, originator, openai-beta | yes           | no        | what the client is, and can read          |
| traceparent, tracestate                     | yes, untraced | no        | the caller's trace                        |
| content-type, retry-after, ...              | no            | yes       | how to read the answer, when to come back |
| session and cache headers, x-codex-*        | yes           | yes       | the provider's prompt cache goes by them  |

Everything else stays on its side: keys, cookies, addresses, limits of the gateway's own account. An upstream's
`forward_headers` add to what goes there, and a dialect's `headers`, too.
"""

from __future__ import annotations

from typing import Final

from gateway.types import Headers

SESSION_HEADERS: Final = (
    b"session_id",
    b"session-id",
    b"x-session-id",
    b"x-session-affinity",
    b"thread-id",
    b"thread_id",
    b"conversation_id",
    b"conversation-id",
    b"x-conversation-id",
    b"x-grok-conv-id",
)
"""By which clients name a session, the most telling first: a provider's prompt cache goes by them, and affinity."""
_BOTH_WAYS: Final = frozenset({*SESSION_HEADERS, b"x-client-request-id"})
_BOTH_WAYS_PREFIX: Final = b"x-codex-"
_TRACE: Final = frozenset({b"traceparent", b"tracestate"})
_REQUEST: Final = _BOTH_WAYS | {b"accept", b"user-agent", b"originator", b"openai-beta", b"x-openai-subagent"}
_REQUEST_UNTRACED: Final = _REQUEST | _TRACE
_ANSWER: Final = _BOTH_WAYS | {
    b"content-type",
    b"retry-after",
    b"retry-after-ms",
    b"x-should-retry",
    b"openai-processing-ms",
    b"openai-version",
    b"openai-model",
}


def to_upstream(headers: Headers, of_dialect: frozenset[bytes], *, traced: bool) -> Headers:
    """The request headers that go on. `traced`: the gateway's own span is the parent, not the caller's."""
    passed, prefix = _REQUEST if traced else _REQUEST_UNTRACED, _BOTH_WAYS_PREFIX
    found = []
    for header in headers:
        name = header[0]
        if name in passed or name in of_dialect or name.startswith(prefix):
            found.append(header)
    return found


def to_client(headers: Headers) -> Headers:
    """The answer's headers that go on."""
    found = []
    for header in headers:
        if header[0] in _ANSWER or header[0].startswith(_BOTH_WAYS_PREFIX):
            found.append(header)  # noqa: PERF401 - a comprehension is a call more
    return found
