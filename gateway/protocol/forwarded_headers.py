"""The table of headers that are forwarded between clients and upstreams. Pure.

| header                                      | to upstream   | to client | why                                      |
|---------------------------------------------|---------------|-----------|------------------------------------------|
| accept, user-agent, originator, openai-beta | yes           | no        | what the client is and understands       |
| traceparent, tracestate                     | yes, untraced | no        | the caller's trace                       |
| content-type, retry-after, ...              | no            | yes       | how to read the answer, when to retry    |
| session and cache headers, x-codex-*        | yes           | yes       | keys of the provider's prompt cache      |

No other header is forwarded: keys, cookies, addresses, limits of the gateway's own account. The upstream's
`forward_headers` and the dialect's `headers` are forwarded to the upstream in addition.
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
"""Headers that name a session, the most specific first. Prompt caches and the gateway's affinity are keyed by them."""
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
    """Returns the request headers to forward. If `traced`, the gateway's own span is the parent, not the caller's."""
    passed, prefix = _REQUEST if traced else _REQUEST_UNTRACED, _BOTH_WAYS_PREFIX
    found = []
    for header in headers:
        name = header[0]
        if name in passed or name in of_dialect or name.startswith(prefix):
            found.append(header)
    return found


def to_client(headers: Headers) -> Headers:
    """Returns the answer's headers to forward."""
    found = []
    for header in headers:
        if header[0] in _ANSWER or header[0].startswith(_BOTH_WAYS_PREFIX):
            found.append(header)  # noqa: PERF401 - a comprehension is a call more
    return found
