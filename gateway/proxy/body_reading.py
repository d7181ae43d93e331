"""Step 2 of a request: its body is read and understood, in memory or, where it is a large form, on disk."""

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
from gateway.protocol.attribution import HEADER as TAGS_HEADER
from gateway.protocol.attribution import NO_LABELS, tags_of
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
"""A body up to this is read before the key is looked up: admission does that, in the same call as everything else."""


async def read_request(
    snapshot: ConfigSnapshot,
    responses: KnownResponses,
    target: Target,
    client: Client,
    record: RequestRecord,
    key: ApiKey,
) -> RequestBody:
    """The request's body, as far as the gateway reads it. Raises GatewayError, ClientDisconnected."""
    limits = snapshot.limits
    is_a_form = _read_media(client, target.operation.dialect)
    length = client.body_length(limits.max_body_bytes)
    coding = client.fields.get(b"content-encoding")  # small as it is, such a body may take long
    if length is None or length > UNCHECKED_BODY_BYTES or coding is not None or client.memory_is_scarce:
        await responses.check(key)
        client.key_is_known()
    most_bytes = limits.max_body_bytes if length is None or coding is not None else length
    form_type = client.fields[b"content-type"] if is_a_form else None
    if form_type is not None and most_bytes > snapshot.forms.over_bytes:
        return await _read_large_form(snapshot, target, client, record, most_bytes, form_type)
    if most_bytes > LONG_BYTES:
        snapshot.body_memory.take(most_bytes)
        record.body_held_bytes = most_bytes
    body = await client.read_body(limits.max_body_bytes, limits.body_timeout_s, length)
    record.bytes_in = len(body)
    if len(body) > LONG_BYTES or coding is not None:
        request = await snapshot.off_loop.run(partial(_understood, body, coding, target, limits, form_type))
    else:
        request = _understood(body, None, target, limits, form_type)
    if record.body_held_bytes:
        snapshot.body_memory.give_back(record.body_held_bytes - len(request.body))
        record.body_held_bytes = len(request.body)
    record.times.received = time.perf_counter()
    if request.labels is not NO_LABELS or TAGS_HEADER in client.fields:
        _note_tags(client, request, limits, record)
    if client.follows_answer:
        return request._replace(work=request.work._replace(rereads_answer=True))
    return request


async def _read_large_form(
    snapshot: ConfigSnapshot,
    target: Target,
    client: Client,
    record: RequestRecord,
    most_bytes: int,
    form_type: bytes,
) -> RequestBody:
    """A form that is, or may be, larger than what stays in memory."""
    limits, spool, coding = snapshot.limits, snapshot.forms, client.fields.get(b"content-encoding")
    name = "" if coding is None else coding.decode("latin-1")
    length = client.body_length(limits.max_body_bytes)
    decoder = BodyDecoder(name, limits.max_body_bytes, length) if is_coded(name) else None
    is_longer = decoder is None and length is not None and length > spool.over_bytes
    form = record.spooled_form = spool.begin(most_bytes, is_longer=is_longer, decoder=decoder)
    held_bytes = SLICES_BYTES + (0 if is_longer else spool.over_bytes)
    snapshot.body_memory.take(held_bytes)
    record.body_held_bytes = held_bytes
    await client.pass_body(form.take, limits.max_body_bytes, limits.body_timeout_s)
    body = await form.end()
    record.bytes_in = form.received_bytes
    work = partial(_understood, body, None, target, limits, form_type)
    request = await (spool.run(work) if isinstance(body, DiskBody) else snapshot.off_loop.run(work))
    left_bytes = SLICES_BYTES if isinstance(body, DiskBody) else len(body)
    snapshot.body_memory.give_back(held_bytes - left_bytes)
    record.body_held_bytes = left_bytes
    record.times.received = time.perf_counter()
    _note_tags(client, request, limits, record)
    return request


def _note_tags(client: Client, request: RequestBody, limits: RequestLimits, record: RequestRecord) -> None:
    record.tags = tags_of(client.fields.get(TAGS_HEADER), request.labels, limits.attribution)


def _understood(
    body: Body | DiskBody, coding: bytes | None, target: Target, limits: RequestLimits, form_type: bytes | None
) -> RequestBody:
    """What a body asks for. `form_type`: the Content-Type of one that is a form with files. In any thread."""
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


def _read_media(client: Client, dialect: Dialect) -> bool:
    """Whether the body is a form with files; JSON if not. Raises GatewayError `unsupported_media_type`."""
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
