"""An upstream's answer: which headers are passed on to the client, the type of its body, reading it completely."""

from __future__ import annotations

from typing import Final

from gateway.billing.lifecycle import Outcome
from gateway.observability.request_record import RequestRecord
from gateway.protocol.dialects.dialect import Dialect, Json
from gateway.protocol.lenient_json import is_json
from gateway.proxy.admission import Admitted, Opened
from gateway.proxy.failover import InvalidAnswer, NotAnAnswer, fault_error
from gateway.types import Headers
from gateway.upstream.transport import UpstreamFault
from gateway.upstream.upstream import ACCOUNT_REFUSED

_BAD_GATEWAY: Final = 502
PASSED_ON: Final = frozenset(
    {
        b"content-type",
        b"retry-after",
        b"retry-after-ms",
        b"x-should-retry",
        b"openai-processing-ms",
        b"openai-version",
        b"openai-model",
    }
)
"""The headers of an upstream's answer that are passed on to the client."""


def content_type(headers: Headers) -> bytes:
    """Returns an answer's media type in lower case without parameters, or b""."""
    for name, value in headers:
        if name == b"content-type":
            return value.partition(b";")[0].strip().lower()
    return b""


def refuse_encoded(headers: Headers) -> None:
    """Refuses an encoded answer.

    The request asked for identity; the header is not passed on, and usage cannot be read.
    """
    for name, value in headers:
        if name == b"content-encoding" and value.strip().lower() != b"identity":
            raise InvalidAnswer(Outcome.INVALID_ANSWER, "The provider's answer is compressed, which was not asked for.")


async def read_body(opened: Opened, *, answered: bool) -> bytes:
    """Reads the whole body.

    If it is too large raises InvalidAnswer; UpstreamFault for a 2xx, GatewayError for a refusal.
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
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def is_refusal(status: int, body: bytes, *, may_be_missing: bool) -> bool:
    """Whether an answer that is no 2xx explains itself to a client. `may_be_missing`: a 404 does, in whatever form."""
    if status < 400:  # noqa: PLR2004 - a redirect is no answer
        return False
    if not body:  # a broken server's silence explains nothing, a refusal's status may
        return status < 500  # noqa: PLR2004 - the same
    return (status == 404 and may_be_missing) or is_json(body)  # noqa: PLR2004 - the same


def client_headers(opened: Opened, admitted: Admitted, record: RequestRecord, extra: Headers) -> Headers:
    """The headers of the client's answer; the record is told how the upstream names the request."""
    headers = [(name, value) for name, value in opened.answer.headers if name in PASSED_ON]
    for name, value in opened.answer.headers:
        if name == b"x-request-id":
            headers.append((b"x-upstream-request-id", value))
            record.upstream_request_id = value.decode("latin-1")
    headers += extra
    headers.append((b"x-request-id", record.request_id.encode()))
    headers += admitted.admission.rates.headers()
    if admitted.admission.unchecked:
        headers.append((b"x-gateway-unchecked", b"store_unavailable"))
    return headers


def status_of_error(opened: Opened, dialect: Dialect, error: Json, body: bytes) -> int:
    """The status with which an error under a 2xx goes to the client.

    Raises NotAnAnswer where others may be asked, InvalidAnswer where the error does not say what it is.
    """
    status = dialect.error_status(error)
    if not opened.is_last:
        raise NotAnAnswer(opened, status or _BAD_GATEWAY, body)
    if status is None or status in ACCOUNT_REFUSED:
        raise InvalidAnswer(Outcome.INVALID_ANSWER, "The provider's answer was not a response.")
    return status
