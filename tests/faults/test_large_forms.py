"""Large forms wait on disk: they arrive unchanged, take little memory, and leave nothing behind, whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import os
import resource
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

from gateway.proxy.form_spool import SLICES_BYTES
from tests.faults.conftest import Stages
from tests.faults.test_failover import BROKEN, two_upstreams
from tests.support.forms import BOUNDARY, CONTENT_TYPE, closed, file_part, text_part, wav
from tests.support.scenario import JSON, MODEL, RawClient, Scenario
from tests.support.scripted_upstream import Step, answer, hang, head, request, wait_for
from tests.support.waiting import wait_until

OVER: Final = 256 * 1024
SERVER: Final = {"port": 0, "body_timeout_s": 20, "max_body_bytes": 8_000_000, "spool_forms_over_bytes": OVER}
PATH: Final = "/v1/audio/transcriptions"
SOUND: Final = wav(60)  # 960 KB
PRICES: Final = {"*": {"input": "0", "output": "0", "per_unit": {"second": "0.0001"}}}
FORM: Final = closed(file_part("file", "a.wav", SOUND), text_part("model", MODEL.encode()))
SAID: Final = answer(b'{"text": "hello"}', headers=JSON)


@pytest.fixture
async def scenario(stages: Stages) -> AsyncIterator[Scenario]:
    async with stages([request(), SAID], server=SERVER, prices=PRICES) as scenario:
        yield scenario


async def begin(scenario: Scenario, *lines: str) -> RawClient:
    client = await scenario.connect()
    head = f"POST {PATH} HTTP/1.1\r\nhost: gateway\r\ncontent-type: {CONTENT_TYPE}\r\n{scenario.authorization}"
    await client.send((head + "".join(f"{line}\r\n" for line in ("connection: close", *lines)) + "\r\n").encode())
    return client


async def send(scenario: Scenario, body: bytes = FORM, *lines: str) -> RawClient:
    """Sends a form of known length. Returns its answer, once it is logged."""
    client = await begin(scenario, f"content-length: {len(body)}", *lines)
    await client.send(body)
    await client.read_all()
    await scenario.logged(1)
    return client


async def send_chunked(scenario: Scenario, body: bytes, size: int, *lines: str) -> RawClient:
    client = await begin(scenario, "transfer-encoding: chunked", *lines)
    for at in range(0, len(body), size):
        piece = body[at : at + size]
        await client.send(b"%x\r\n%b\r\n" % (len(piece), piece))
    await client.send(b"0\r\n\r\n")
    await client.read_all()
    await scenario.logged(1)
    return client


def sent(scenario: Scenario) -> bytes:
    """The body that the upstream has received."""
    return scenario.upstream.requests[-1].partition(b"\r\n\r\n")[2]


def files(directory: Path) -> list[Path]:
    """The descriptors of unnamed files of a directory that this process has open."""
    found = []
    for one in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # it was the listing's own
            link = str(one.readlink())
            if link.startswith(f"{directory}/") and link.endswith(" (deleted)"):
                found.append(one)
    return found


def on_disk(directory: Path) -> int:
    return len(files(directory))


def held(scenario: Scenario) -> tuple[int, int]:
    """What bodies take of the worker's memory, and of its disk."""
    snapshot = scenario.gateway.services.handler.snapshot
    return snapshot.body_memory.held_bytes, snapshot.forms.disk.held_bytes


def names(directory: Path) -> list[str]:
    return [one.name for one in directory.iterdir() if one.is_file()]


async def nothing_is_left(scenario: Scenario, directory: Path) -> None:
    await wait_until(lambda: held(scenario) == (0, 0), what="nothing is held")
    await wait_until(lambda: on_disk(directory) == 0, what="the file is closed")
    assert names(directory) == []


# What arrives


async def test_it_arrives_byte_for_byte_and_is_charged_by_its_sound(scenario: Scenario, tmp_path: Path) -> None:
    client = await send(scenario)
    assert (client.status, json.loads(client.body)) == (200, {"text": "hello"})
    assert sent(scenario) == FORM
    (line,) = scenario.log_lines()
    assert line["bytes_in"] == len(FORM)
    (entry,) = scenario.journal()
    assert int(entry["amount"]) == -60 * 100_000
    await nothing_is_left(scenario, tmp_path)


@pytest.mark.parametrize("size", [1_000, 65_536, 700_000])
async def test_it_arrives_whatever_chunks_it_comes_in(scenario: Scenario, tmp_path: Path, size: int) -> None:
    assert (await send_chunked(scenario, FORM, size)).status == 200
    assert sent(scenario) == FORM
    await nothing_is_left(scenario, tmp_path)


async def test_a_small_one_of_unknown_length_stays_in_memory(scenario: Scenario) -> None:
    form = closed(file_part("file", "a.wav", wav(3)), text_part("model", MODEL.encode()))
    assert (await send_chunked(scenario, form, 10_000)).status == 200
    assert sent(scenario) == form


@pytest.mark.parametrize("fields", ["in front", "behind", "missing"])
async def test_another_model_changes_no_other_byte(stages: Stages, fields: str) -> None:
    sound, route = file_part("file", "a.wav", SOUND), {"rename": "other"}
    parts = {"in front": (text_part("model", MODEL.encode()), sound), "behind": (sound, text_part("model", b"test/x"))}
    wanted = {"in front": (text_part("model", b"other"), sound), "behind": (sound, text_part("model", b"other"))}
    if fields == "missing":
        picture = file_part("image", "a.png", SOUND)
        async with stages([request(), answer(b'{"data": []}', headers=JSON)], server=SERVER, route=route) as scenario:
            client = await scenario.ask(closed(picture), path="/v1/images/variations", content_type=CONTENT_TYPE)
            await client.read_all()
            assert sent(scenario) == closed(text_part("model", b"other"), picture)
        return
    async with stages([request(), SAID], server=SERVER, prices=PRICES, route=route) as scenario:
        assert (await send(scenario, closed(*parts[fields]))).status == 200
        assert sent(scenario) == closed(*wanted[fields])


@pytest.mark.parametrize("length", ["known", "unknown"])
async def test_a_compressed_one_arrives_as_it_was_before(scenario: Scenario, tmp_path: Path, length: str) -> None:
    random = os.urandom(400_000)
    form = closed(file_part("file", "a.bin", random), text_part("model", MODEL.encode()))
    coded = gzip.compress(form, 1)
    if length == "known":
        client = await send(scenario, coded, "content-encoding: gzip")
    else:
        client = await send_chunked(scenario, coded, 50_000, "content-encoding: gzip")
    assert client.status == 200
    assert sent(scenario) == form
    await nothing_is_left(scenario, tmp_path)


async def test_the_next_upstream_gets_it_from_the_file(stages: Stages) -> None:
    spoken = (request(), SAID)
    async with two_upstreams(stages, [request(), BROKEN], spoken, server=SERVER, prices=PRICES) as (scenario, second):
        assert (await send(scenario)).status == 200
        for upstream in (scenario.upstream, second):
            assert upstream.requests[0].partition(b"\r\n\r\n")[2] == FORM


# What it takes


async def test_it_takes_slices_of_the_memory_and_its_size_of_the_disk(stages: Stages, tmp_path: Path) -> None:
    goes_on = asyncio.Event()
    script: list[Step] = [request(), wait_for(goes_on), SAID]
    async with stages(script, server=SERVER, prices=PRICES) as scenario:
        asking = asyncio.create_task(send(scenario))
        await wait_until(lambda: len(scenario.upstream.requests) == 1, what="the upstream has it")
        assert held(scenario) == (SLICES_BYTES, len(FORM))
        assert on_disk(tmp_path) == 1
        goes_on.set()
        assert (await asking).status == 200
        await nothing_is_left(scenario, tmp_path)


async def test_the_disk_has_a_bound_of_its_own(stages: Stages, tmp_path: Path) -> None:
    server = {**SERVER, "max_spooled_bytes": 1024 * 1024}
    goes_on = asyncio.Event()
    async with stages([request(), wait_for(goes_on), SAID], server=server, prices=PRICES, limits={}) as scenario:
        asking = asyncio.create_task(send(scenario))
        await wait_until(lambda: len(scenario.upstream.requests) == 1, what="the upstream has it")
        refused = await begin(scenario, f"content-length: {len(FORM)}")
        await refused.read_all()
        assert (refused.status, json.loads(refused.body)["error"]["code"]) == (503, "too_many_bodies")
        goes_on.set()
        assert (await asking).status == 200
        await nothing_is_left(scenario, tmp_path)


# How it ends


async def test_a_client_that_leaves_inside_it_leaves_nothing_behind(scenario: Scenario, tmp_path: Path) -> None:
    client = await begin(scenario, f"content-length: {len(FORM)}")
    await client.send(FORM[:700_000])
    await wait_until(lambda: on_disk(tmp_path) == 1, what="it is being kept")
    client.leave()
    await scenario.logged(1)
    assert scenario.log_lines()[0]["outcome"] == "client_left"
    await nothing_is_left(scenario, tmp_path)


async def test_a_client_that_leaves_while_it_is_sent_on_leaves_nothing_behind(stages: Stages, tmp_path: Path) -> None:
    upstream = {"drain_timeout_s": 1}
    async with stages([wait_for(asyncio.Event())], server=SERVER, prices=PRICES, upstream=upstream) as scenario:
        client = await begin(scenario, f"content-length: {len(FORM)}")
        await client.send(FORM)
        await wait_until(lambda: bool(scenario.gateway.services.handler.running), what="it is being sent")
        client.leave()
        await scenario.logged(1)
        await nothing_is_left(scenario, tmp_path)


async def test_one_that_does_not_go_on_is_given_up(stages: Stages, tmp_path: Path) -> None:
    async with stages(server={**SERVER, "body_timeout_s": 1}) as scenario:
        client = await begin(scenario, f"content-length: {len(FORM)}")
        await client.send(FORM[:700_000])
        await client.read_all()
        assert client.status == 408
        await nothing_is_left(scenario, tmp_path)


async def test_one_of_unknown_length_that_is_too_large_is_refused(scenario: Scenario, tmp_path: Path) -> None:
    client = await begin(scenario, "transfer-encoding: chunked")
    piece = bytes(1_000_000)
    for _ in range(9):
        await client.send(b"%x\r\n%b\r\n" % (len(piece), piece))
    await client.read_all()
    assert client.status == 413
    await nothing_is_left(scenario, tmp_path)


@pytest.mark.parametrize("length", ["known", "unknown"])
async def test_a_bomb_is_refused(scenario: Scenario, tmp_path: Path, length: str) -> None:
    coded = gzip.compress(file_part("file", "a.wav", bytes(7_000_000)))
    if length == "known":
        client = await send(scenario, coded, "content-encoding: gzip")
    else:
        client = await send_chunked(scenario, coded, 1_000, "content-encoding: gzip")
    assert (client.status, json.loads(client.body)["error"]["code"]) == (413, "body_too_large")
    await nothing_is_left(scenario, tmp_path)


@pytest.mark.parametrize(
    "last", [text_part("model", b"other"), f"--{BOUNDARY}X\r\n".encode()], ids=["field", "boundary"]
)
async def test_games_are_refused_as_in_memory(scenario: Scenario, tmp_path: Path, last: bytes) -> None:
    body = FORM[: -len(closed())] + last + closed()
    client = await send(scenario, body)
    assert client.status == 400
    assert json.loads(client.body)["error"]["code"] in ("duplicate_field", "invalid_field")
    assert scenario.upstream.requests == []
    await nothing_is_left(scenario, tmp_path)


# When the disk fails


async def refused_by_the_disk(scenario: Scenario) -> dict[str, Any]:
    client = await send(scenario)
    assert (client.status, json.loads(client.body)["error"]["code"]) == (503, "disk_unavailable")
    assert scenario.upstream.requests == []
    await wait_until(lambda: held(scenario) == (0, 0), what="nothing is held")
    assert scenario.gateway.balance(scenario.key).spent == 0
    return scenario.log_lines()[0]


async def test_a_full_disk_is_a_503_and_the_log_says_why(scenario: Scenario, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, hard))
    try:
        line = await refused_by_the_disk(scenario)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "too large" in line["detail"]
    assert str(tmp_path) in line["detail"]
    await nothing_is_left(scenario, tmp_path)
    assert (await send(scenario)).status == 200  # once there is room


async def test_a_file_that_is_lost_on_its_way_is_a_503_and_no_fault_of_the_upstream(
    stages: Stages, tmp_path: Path
) -> None:
    goes_on = asyncio.Event()
    form = closed(file_part("file", "a.wav", bytes(7_000_000)), text_part("model", MODEL.encode()))
    script: list[Step] = [head(), wait_for(goes_on), hang()]
    async with stages(script, server=SERVER, prices=PRICES, upstream={"breaker_failures": 1}) as scenario:
        asking = asyncio.create_task(send(scenario, form))
        await wait_until(lambda: len(scenario.upstream.requests) == 1, what="it is being sent")
        (link,) = files(tmp_path)
        os.truncate(link, 100)
        goes_on.set()
        client = await asking
        assert (client.status, json.loads(client.body)["error"]["code"]) == (503, "disk_unavailable")
        assert scenario.gateway.balance(scenario.key).spent == 0
        await nothing_is_left(scenario, tmp_path)
        again = await scenario.ask()
        await again.read_all()
        assert again.status == 200  # its breaker would be open


async def test_a_directory_that_cannot_be_used_is_a_503(stages: Stages, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    async with stages(server=SERVER, prices=PRICES, store={"data_dir": str(tmp_path / "file" / "data")}) as scenario:
        await refused_by_the_disk(scenario)
