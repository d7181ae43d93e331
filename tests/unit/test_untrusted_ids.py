"""What an upstream says of a response is stored and logged only where it can be."""

from __future__ import annotations

import asyncio
import io
import json

import pytest

from gateway.config.sections import LogSettings
from gateway.observability.request_log import open_request_log
from gateway.observability.request_record import RequestRecord
from gateway.protocol.lenient_json import MAX_ID_CHARACTERS, id_text

FORGED = "resp_1\n2026-01-01T00:00:00Z POST /v1/responses 200 forged=line"


@pytest.mark.parametrize(
    "value",
    [
        "\ud800",
        "resp_\udfff",
        FORGED,
        "a\rb",
        "\x1b[2J",
        "a\x00",
        "a\u2028b",
        "x" * (MAX_ID_CHARACTERS + 1),
        7,
        None,
        ["a"],
    ],
)
def test_what_could_not_be_stored_or_would_forge_a_line_is_no_id(value: object) -> None:
    assert id_text(value) is None


@pytest.mark.parametrize("value", ["resp_1", "gen-1 2", "\u00e9\u4e16", "x" * MAX_ID_CHARACTERS])
def test_other_text_is_an_id_as_it_is(value: str) -> None:
    assert id_text(value) == value


async def written(format_: str, **values: str) -> str:
    stream = io.StringIO()
    log = open_request_log(LogSettings(format=format_, level="info"), stream)
    record = RequestRecord("req_1")
    for name, value in values.items():
        if name == "upstream_request_id":
            record.upstream.request_id = value
        else:
            setattr(record, name, value)
    log.write(record)
    await asyncio.sleep(0)
    return stream.getvalue()


@pytest.mark.parametrize("name", ["upstream_request_id", "detail", "model", "path"])
@pytest.mark.parametrize("value", [FORGED, "\x1b[2J", "\ud800", "a\u2028b\x85c"])
async def test_whatever_a_record_holds_is_one_line_of_the_log(name: str, value: str) -> None:
    text = await written("text", **{name: value})
    assert text.endswith("\n")
    assert text[:-1].isprintable()
    line = await written("json", **{name: value})
    assert line.count("\n") == 1
    assert json.loads(line)[name] == value
