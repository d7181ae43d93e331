"""Reads an upstream's answer: its media type, its whole body, its errors, and the headers for the client."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Final, Literal

from gateway.billing.lifecycle import Outcome
from gateway.concurrency.off_loop import OffLoop
from gateway.errors import GatewayError, Kind
from gateway.observability.request_record import RequestRecord
from gateway.protocol.body_changes import Addition
from gateway.protocol.content_codings import is_coded
from gateway.protocol.dialects.dialect import Dialect, Json
from gateway.protocol.forwarded_headers import to_client
from gateway.protocol.lenient_json import dumps, is_json
from gateway.protocol.provider_errors import MAX_ERROR_BYTES, is_standard, read_provider_error
from gateway.protocol.retry_after import retry_after_s
from gateway.protocol.stream_decoder import coding_of
from gateway.proxy.admission import Admitted, Opened
from gateway.proxy.failover import InvalidAnswer, NotAnAnswer, fault_error
from gateway.proxy.refusals import account_status
from gateway.types import Headers
from gateway.upstream.buffered_answer import PeekedAnswer
from gateway.upstream.transport import UpstreamFault
from gateway.upstream.upstream import ACCOUNT_REFUSED

EVENT_HEADERS: Final[tuple[tuple[bytes, bytes], ...]] = ((b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"))
"""Headers of streams, which tell proxies not to buffer them."""
_LARGE_BYTES: Final = 1024 * 1024
_BAD_GATEWAY: Final = 502
_EVENT_FIELDS: Final = (b"data:", b"event:", b"id:", b"retry:", b":")
_BOM: Final = b"\xef\xbb\xbf"


class ProviderRefusal(InvalidAnswer):
    """A provider's refusal whose body clients cannot read. They get its status with an error of their dialect."""

    def __init__(self, status: int, headers: Headers, body: bytes) -> None:
        provider_error = read_provider_error(body, content_type(headers))
        super().__init__(Outcome.UPSTREAM_REFUSED, provider_error.message or f"The provider answered {status}.")
        wait_s = retry_after_s(headers, time.time())
        # Clients repeat the request only if the status or the headers say that this helps.
        retry: Literal["client", "never"] = "client" if status in _WORTH_A_RETRY or status >= _SERVER_ERROR else "never"
        usual_type = "server_error" if status >= _SERVER_ERROR else "invalid_request"
        self.kind = Kind(status, provider_error.type or _TYPES.get(status, usual_type), retry)
        self.code, self.param = provider_error.code or "upstream_refused", provider_error.param
        self.wait_ms = None if wait_s is None or retry == "never" else int(wait_s * 1000)
        self.explain = MappingProxyType({"limit_source": "upstream"})

    @property
    def permanent(self) -> bool:
        """Whether waiting certainly does not help."""
        return self.kind.retry == "never"


_SERVER_ERROR: Final = 500
_WORTH_A_RETRY: Final = frozenset({408, 409, 425, 429})
_TYPES: Final[Mapping[int, str]] = MappingProxyType(
    {403: "permission_denied", 404: "not_found", 429: "too_many_requests"}
)


def content_type(headers: Headers) -> bytes:
    """Returns an answer's media type in lower case without parameters, or b""."""
    for name, value in headers:
        if name == b"content-type":
            return value.partition(b";")[0].strip().lower()
    return b""


def readable_type(headers: Headers) -> tuple[bytes, bool]:
    """Returns the media type of an answer, and whether it is compressed, although the gateway did not ask for that.

    Raises InvalidAnswer for an unknown coding.
    """
    kind, is_compressed = b"", False
    for name, value in headers:
        if name == b"content-type":
            kind = kind or value.partition(b";")[0].strip().lower()
        elif name == b"content-encoding" and is_coded(coding := value.decode("latin-1")):
            is_compressed = True
            if coding_of(coding) is None:
                raise InvalidAnswer(Outcome.INVALID_ANSWER, "The provider's answer is compressed in an unknown way.")
    return kind, is_compressed


def refuse_unreadable(status: int, headers: Headers, body: bytes, *, may_be_missing: bool) -> None:
    """Returns for a refusal that clients can read, and raises for any other one. `status` is what it stands for.

    Raises GatewayError if it concerns the gateway's own account or comes from a broken server, and otherwise
    ProviderRefusal.
    """
    if account_status(status, body) in ACCOUNT_REFUSED:
        raise GatewayError(
            "upstream_rejected_gateway", "The provider refused the gateway's own account. Tell its operator."
        )
    is_client_error = 400 <= status < _SERVER_ERROR  # noqa: PLR2004 - HTTP's 4xx
    if may_be_missing and status == 404:  # noqa: PLR2004 - any body is passed on for an operation that the upstream does not offer
        return
    if not body and is_client_error:  # its status explains enough
        return
    if is_standard(body) and (len(body) > MAX_ERROR_BYTES or is_json(body)) and status >= 400:  # noqa: PLR2004 - a redirect is no answer
        return
    if is_client_error or (status >= _SERVER_ERROR and len(body) <= MAX_ERROR_BYTES and is_json(body)):
        raise ProviderRefusal(status, headers, body)
    wait_s = retry_after_s(headers, time.time())
    wait_ms = None if wait_s is None else int(wait_s * 1000)
    raise GatewayError("upstream_invalid_response", "The provider's answer was not valid.", wait_ms=wait_ms)


async def detect_events(opened: Opened, kind: bytes) -> tuple[Opened, bool]:
    """Returns whether an answer is server-sent events: by its media type, or else by its first bytes.

    The answer that is returned with it still has these bytes.
    """
    if kind in (b"text/event-stream", b"application/json"):
        return opened, kind == b"text/event-stream"
    first = await opened.answer.read()
    head = first[:64].removeprefix(_BOM).lstrip(b"\r\n")
    return opened._replace(answer=PeekedAnswer(opened.answer, first)), head.startswith(_EVENT_FIELDS)


async def read_body(opened: Opened, off_loop: OffLoop, *, answered: bool) -> bytes:
    """Reads the whole body. The pieces of a large one are joined off the event loop.

    Raises InvalidAnswer if it is too large. If it breaks off, raises UpstreamFault for a 2xx, and GatewayError for a
    refusal.
    """
    answer, bound = opened.answer, opened.upstream.policy.max_answer_bytes
    pieces: list[bytes] = []
    size = 0
    try:
        while data := await answer.read():
            pieces.append(data)
            size += len(data)
            if size > bound:
                answer.abort()
                raise InvalidAnswer(Outcome.UPSTREAM_CUT, "The provider's answer was too large.")
    except UpstreamFault as fault:
        if answered:
            raise
        raise fault_error(fault) from None
    if len(pieces) == 1:
        return pieces[0]
    return await off_loop.run(partial(b"".join, pieces)) if size > _LARGE_BYTES else b"".join(pieces)


def client_headers(opened: Opened | None, admitted: Admitted, record: RequestRecord, extra: Headers) -> Headers:
    """Returns the headers of the client's answer, and notes the upstream's request id in the record.

    `opened` is None if no upstream has answered yet.
    """
    headers: Headers = []
    if opened is not None:
        headers = to_client(opened.answer.headers)
        for name, value in opened.answer.headers:
            if name == b"x-request-id":
                headers.append((b"x-upstream-request-id", value))
                record.upstream.request_id = value.decode("latin-1")
            elif name == b"request-id":  # Anthropic's name for the same
                record.upstream.request_id = record.upstream.request_id or value.decode("latin-1")
        if opened.output_bound is not None:
            headers.append((b"x-gateway-max-output-tokens", b"%d" % opened.output_bound))
    if record.queued_ms is not None:
        headers.append((b"x-gateway-queued-ms", b"%d" % record.queued_ms))
    headers += extra
    headers.append((b"x-request-id", record.request_id.encode()))
    headers += admitted.admission.rates.headers()
    if admitted.admission.unchecked:
        headers.append((b"x-gateway-unchecked", b"store_unavailable"))
    return headers


def not_an_answer(opened: Opened, dialect: Dialect, error: Json, read: bytes) -> NotAnAnswer:
    """Returns the exception for an error under a 2xx while nothing has been sent. `read`: the body so far."""
    status = dialect.error_status(error)
    is_callers = status is None or status < 500  # noqa: PLR2004 - an HTTP class
    refused = refused_addition(opened, dumps(error)) if is_callers else None
    return NotAnAnswer(opened, status or _BAD_GATEWAY, read, refused)


def refused_addition(opened: Opened, refusal: bytes) -> Addition | None:
    """Returns the addition that a refusal names, if it names one."""
    return next((one for one in opened.added if one.is_named_in(refusal)), None)


def status_of_error(opened: Opened, dialect: Dialect, error: Json, body: bytes) -> int:
    """Returns the status with which an error under a 2xx is passed on to the client.

    Raises NotAnAnswer if another upstream may be tried, ProviderRefusal if the error has no known status, and what
    `refuse_unreadable` raises.
    """
    if not opened.is_last:
        raise not_an_answer(opened, dialect, error, body)
    status = dialect.error_status(error)
    if status is None:
        raise ProviderRefusal(_BAD_GATEWAY, opened.answer.headers, body)
    refuse_unreadable(status, opened.answer.headers, body, may_be_missing=False)
    return status
