"""Step 2 of a request: reads and parses its body, in memory or, for a large form, on disk."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import Final

from gateway.concurrency.disk_body import DiskBody
from gateway.concurrency.off_loop import LONG_BYTES
from gateway.errors import GatewayError
from gateway.http.client import Client
from gateway.identity.api_keys import ApiKey
from gateway.ledger.known_responses import KnownResponses
from gateway.observability.request_record import RequestRecord
from gateway.protocol.attribution import END_USER_HEADER, NO_LABELS, named_by, tags_of
from gateway.protocol.attribution import HEADER as TAGS_HEADER
from gateway.protocol.content_codings import BodyDecoder, check_coding, decode, is_coded
from gateway.protocol.dialects.dialect import Dialect
from gateway.protocol.form_body import read_form_request
from gateway.protocol.multipart import is_form
from gateway.protocol.operations import Target
from gateway.protocol.request_body import RequestBody, model_of, read_request_body
from gateway.proxy.form_spool import SLICES_BYTES
from gateway.proxy.snapshot import ConfigSnapshot, RequestLimits
from gateway.types import Body

UNCHECKED_BODY_BYTES: Final = 256 * 1024
"""Up to this size a body is read before its key is checked, because the admission script checks the key anyway."""


async def read_request(
    snapshot: ConfigSnapshot,
    responses: KnownResponses,
    target: Target,
    client: Client,
    record: RequestRecord,
    key: ApiKey,
) -> RequestBody:
    """Reads the body, and returns the fields that the gateway needs. Raises GatewayError, ClientDisconnected."""
    limits = snapshot.limits
    is_a_form = _is_form(client, target.operation.dialect)
    length = client.body_length(limits.max_body_bytes)
    coding = client.fields.get(b"content-encoding")  # even a small body may take long to decode
    if length is None or length > UNCHECKED_BODY_BYTES or coding is not None or client.memory_is_scarce:
        await responses.check(key)
        client.key_is_known()
    max_bytes = limits.max_body_bytes if length is None or coding is not None else length
    form_type = client.fields[b"content-type"] if is_a_form else None
    if form_type is not None and max_bytes > snapshot.forms.over_bytes:
        return await _read_large_form(snapshot, target, client, record, max_bytes, form_type)
    if max_bytes > LONG_BYTES:
        snapshot.body_memory.take(max_bytes)
        record.body_held_bytes = max_bytes
    body = await client.read_body(limits.max_body_bytes, limits.body_timeout_s, length)
    record.bytes_in = len(body)
    if len(body) > LONG_BYTES or coding is not None:
        request = await snapshot.off_loop.run(partial(_parse_body, body, coding, target, limits, form_type))
    else:
        request = _parse_body(body, None, target, limits, form_type)
    if record.body_held_bytes:
        snapshot.body_memory.give_back(record.body_held_bytes - len(request.body))
        record.body_held_bytes = len(request.body)
    record.times.received = time.perf_counter()
    if request.labels is not NO_LABELS or TAGS_HEADER in client.fields or END_USER_HEADER in client.fields:
        _note_tags(client, request, limits, record)
    if client.follows_answer:
        return request._replace(work=request.work._replace(rereads_answer=True))
    return request


async def _read_large_form(
    snapshot: ConfigSnapshot,
    target: Target,
    client: Client,
    record: RequestRecord,
    max_bytes: int,
    form_type: bytes,
) -> RequestBody:
    """Reads a form that is, or may be, too large for memory."""
    limits, spool, coding = snapshot.limits, snapshot.forms, client.fields.get(b"content-encoding")
    name = "" if coding is None else coding.decode("latin-1")
    length = client.body_length(limits.max_body_bytes)
    decoder = BodyDecoder(name, limits.max_body_bytes, length) if is_coded(name) else None
    is_longer = decoder is None and length is not None and length > spool.over_bytes
    form = record.spooled_form = spool.begin(max_bytes, is_longer=is_longer, decoder=decoder)
    held_bytes = SLICES_BYTES + (0 if is_longer else spool.over_bytes)
    snapshot.body_memory.take(held_bytes)
    record.body_held_bytes = held_bytes
    await client.pass_body(form.take, limits.max_body_bytes, limits.body_timeout_s)
    body = await form.end()
    record.bytes_in = form.received_bytes
    work = partial(_parse_body, body, None, target, limits, form_type)
    request = await (spool.run(work) if isinstance(body, DiskBody) else snapshot.off_loop.run(work))
    left_bytes = SLICES_BYTES if isinstance(body, DiskBody) else len(body)
    snapshot.body_memory.give_back(held_bytes - left_bytes)
    record.body_held_bytes = left_bytes
    record.times.received = time.perf_counter()
    _note_tags(client, request, limits, record)
    return request


def _note_tags(client: Client, request: RequestBody, limits: RequestLimits, record: RequestRecord) -> None:
    labels = named_by(client.fields.get(END_USER_HEADER), request.labels)
    record.tags = tags_of(client.fields.get(TAGS_HEADER), labels, limits.attribution)


def _parse_body(
    body: Body | DiskBody, coding: bytes | None, target: Target, limits: RequestLimits, form_type: bytes | None
) -> RequestBody:
    """Parses a body. `form_type` is the Content-Type of a form with files. May run in any thread."""
    operation, form = target.operation, target.operation.dialect.request
    if target.model:
        form = replace(form, default_model=target.model)
    if isinstance(body, DiskBody):
        request = read_form_request(body, form_type or b"", form)
    else:
        if coding is not None and is_coded(name := coding.decode("latin-1")):
            body = decode(body, name, limits.max_body_bytes)
        if form_type is not None:
            request = read_form_request(body, form_type, form)
        else:
            request = read_request_body(body, form, needs_input=operation.needs_input, body_bounds=limits.body_bounds)
    return request._replace(model=model_of(target.model, form), names_model=False) if target.model else request


def _is_form(client: Client, dialect: Dialect) -> bool:
    """Whether the body is a form with files. If not, it is JSON. Raises GatewayError `unsupported_media_type`."""
    kind = client.fields.get(b"content-type")
    is_a_form = kind is not None and dialect.multipart and is_form(kind)
    if kind is not None and not is_a_form and kind.partition(b";")[0].strip().lower() != b"application/json":
        or_form = ", or as a form: 'Content-Type: multipart/form-data'" if dialect.multipart else ""
        raise GatewayError(
            "unsupported_media_type", f"Send the request as JSON: 'Content-Type: application/json'{or_form}."
        )
    encoding, coding = client.fields.get(b"content-encoding"), client.fields.get(b"transfer-encoding")
    if coding is not None and coding.strip().lower() != b"chunked":
        raise GatewayError("unsupported_media_type", "Send the body without a Transfer-Encoding other than chunked.")
    if encoding is not None:
        check_coding(encoding.decode("latin-1"))
    return is_a_form
