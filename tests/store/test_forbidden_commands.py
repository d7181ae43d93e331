"""An ACL that forbids single commands: a script runs whole or not at all, and what is missing is named."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from importlib import resources
from pathlib import Path

import httpx
import pytest
import redis

from gateway.errors import GatewayError
from gateway.identity.api_keys import ApiKey
from gateway.ledger import hold_expiry
from gateway.ledger.admission_call import ADMIT
from gateway.ledger.settlement_call import SETTLE
from gateway.store.durability import inspect
from gateway.store.script import COMMANDS, Script
from tests.store.test_durability import configured
from tests.support.gateway import running_gateway, simulator
from tests.support.ledgers import LedgerParts, ask, kept_up, open_ledger, read_books, settled, voided
from tests.support.processes import UPSTREAM_KEY
from tests.support.program import run
from tests.support.servers import STORES, Server, binary_of, valkey_cluster, valkey_server
from tests.support.stores import hasty, opened
from tests.support.waiting import wait_until_found, wait_until_sync

pytestmark = pytest.mark.timeout(120)

SCRIPTS = [
    Script.load(file.name.removesuffix(".lua"))
    for file in resources.files("gateway.store").joinpath("scripts").iterdir()
    if re.search(r"_v\d+\.lua$", file.name)
]
CHECKED = [script for script in SCRIPTS if script.source.startswith("do local c,k=redis.acl_check_cmd")]
CHECKED_BELOW = {ADMIT.name, SETTLE.name}
"""Those that ask about some commands before their first write: test_forbidden_midway has their branches."""
OF_A_REQUEST = sorted({*ADMIT.commands, *SETTLE.commands, *hold_expiry.EXPIRE.commands, *hold_expiry.RENEW.commands})


READ_FIRST = ("HMGET", "TIME")
"""Without these it is not even known that a request is one too many."""


def _forbid(server: Server, command: str) -> None:
    server.run("ACL", "SETUSER", "gateway", f"-{command.replace(' ', '|').lower()}")


def _permit_all(server: Server) -> None:
    server.run("ACL", "SETUSER", "gateway", "reset", "on", ">secret", "~*", "&*", "+@all")


@pytest.fixture(scope="module", params=STORES)
def running(request: pytest.FixtureRequest) -> Iterator[Server]:
    with valkey_server(tcp=True, binary=binary_of(request.param), appendonly="yes") as server:
        yield server


@pytest.fixture
def server(running: Server) -> Server:
    _permit_all(running)
    return running


def _url(server: Server) -> str:
    return f"redis://gateway:secret@127.0.0.1:{server.port}"


@pytest.fixture
async def parts(server: Server, tmp_path: Path) -> AsyncIterator[LedgerParts]:
    async with open_ledger(_url(server), tmp_path, hold_ttl_s=60.0) as parts:
        yield parts


def test_the_table_has_each_command_of_the_scripts_and_no_other() -> None:
    used = {command for script in SCRIPTS for command in script.commands} | {"XREVRANGE"}  # as a variable
    assert used == set(COMMANDS)


def test_each_script_that_writes_asks_first_and_those_that_read_have_no_write_of_their_own() -> None:
    unchecked = {script for script in set(SCRIPTS) - set(CHECKED) if script.name not in CHECKED_BELOW}
    for script in unchecked:
        text = resources.files("gateway.store").joinpath("scripts", f"{script.name}.lua").read_text(encoding="utf-8")
        assert not any(COMMANDS[command] for command in _own(text)), script.name
    assert hold_expiry.EXPIRE in CHECKED
    assert {script.name for script in set(SCRIPTS) - unchecked} == {script.name for script in CHECKED} | CHECKED_BELOW
    assert all("acl_check_cmd" in script.source for script in (ADMIT, SETTLE))


def _own(text: str) -> list[str]:
    return [word for word in re.findall(r"redis\.call\('([A-Z]+)'", text) if word in COMMANDS]


@pytest.mark.parametrize("script", CHECKED, ids=lambda script: script.name)
def test_a_script_that_lacks_any_one_command_writes_nothing_and_names_it(server: Server, script: Script) -> None:
    with redis.Redis(port=server.port, username="gateway", password="secret") as client:
        for command in script.commands:
            _permit_all(server)
            _forbid(server, command)
            with pytest.raises(redis.exceptions.NoPermissionError, match=f"may not run {command}$"):
                client.execute_command("EVAL", script.source, 1, "gw:{t}:x")
        assert client.exists("gw:{t}:x") == 0


@pytest.mark.parametrize("command", OF_A_REQUEST)
async def test_without_one_command_no_settlement_is_half_written_and_later_each_is_posted_once(
    server: Server, parts: LedgerParts, tmp_path: Path, command: str
) -> None:
    key = await parts.new_key(credit=100, limits={"concurrency": 3})
    holds = [(await parts.ledger.admit(ask(key))).hold for _ in range(3)]
    _forbid(server, command)
    error = await _refusal(parts, key)
    assert error is not None
    expected = ("store_unavailable", 1000) if command in READ_FIRST else ("concurrency_exceeded", 1000)
    assert (error.code, error.wait_ms) == expected
    await asyncio.gather(*(parts.ledger.settle(settled(hold, cost=5)) for hold in holds[:2]))
    await parts.ledger.settle(voided(holds[2]))
    async with opened(hasty(f"redis://127.0.0.1:{server.port}")) as store:
        (await read_books(store, key.team_id)).check()  # nothing, or all
    _permit_all(server)
    async with kept_up(parts.ledger):

        async def all_posted() -> bool:
            books = await parts.books(key)
            return books.spent == 10 and not books.holds

        await wait_until_found(all_posted, what="all is posted, and every slot is back")
        assert not list((tmp_path / "spool").glob("*.refused"))
        assert await _refusal(parts, key) is None
    books = await parts.books(key)
    books.check()
    assert len(books.entries("settle")) == 2
    assert books.state[f"{key.key_id}:open"] == 1


async def _refusal(parts: LedgerParts, key: ApiKey) -> GatewayError | None:
    try:
        await parts.ledger.admit(ask(key))
    except GatewayError as error:
        return error
    return None


@pytest.mark.parametrize("command", [*COMMANDS, "EVALSHA"])
async def test_what_is_missing_is_found(server: Server, command: str) -> None:
    async with opened(hasty(_url(server))) as store:
        [found] = (await inspect(store)).values()
        assert (found.forbidden, "forbids" in found.dangers) == ((), False)
        _forbid(server, command)
        [found] = (await inspect(store)).values()
        assert found.forbidden == (command,)
        assert command in found.explain("forbids")


async def test_what_is_missing_is_found_where_nothing_else_is_told(server: Server) -> None:
    _forbid(server, "INFO")
    _forbid(server, "XADD")
    async with opened(hasty(_url(server))) as store:
        [found] = (await inspect(store)).values()
    assert found.dangers == ("forbids",)


async def test_one_node_of_a_cluster_that_forbids_a_command_is_found() -> None:
    with valkey_cluster() as cluster:
        for node in cluster.nodes:
            _permit_all(node)
        _forbid(cluster.nodes[1], "HSET")
        url = cluster.url.replace("://", "://gateway:secret@")
        async with opened(hasty(url)) as store:
            found = {node.port: inspection.forbidden for node, inspection in (await inspect(store)).items()}
    assert found == {node.port: ("HSET",) if node is cluster.nodes[1] else () for node in cluster.nodes}


def test_a_gateway_names_what_is_missing_is_not_ready_and_is_ready_again(server: Server, tmp_path: Path) -> None:
    with (
        simulator() as upstream,
        running_gateway(_url(server), upstream, tmp_path) as gateway,
        httpx.Client(base_url=gateway.url) as client,
    ):

        def seen() -> tuple[int, bool, list[str]]:
            answer = client.get("/readyz")
            return answer.status_code, answer.json()["parts"]["store"], answer.json()["store_forbids"]

        assert seen() == (200, True, [])
        _forbid(server, "XADD")
        _forbid(server, "XINFO STREAM")
        wait_until_sync(lambda: seen() == (503, False, ["XADD", "XINFO STREAM"]), what="it is named")
        assert 'gateway_store_dangers{danger="forbids"} 1' in client.get("/metrics").text
        _permit_all(server)
        wait_until_sync(lambda: seen() == (200, True, []), what="it serves again")


def test_a_gateway_that_lacks_a_command_from_the_start_is_ready_as_soon_as_it_is_permitted(
    server: Server, tmp_path: Path
) -> None:
    _forbid(server, "XADD")
    with (
        simulator() as upstream,
        running_gateway(_url(server), upstream, tmp_path, until_ready=False) as gateway,
        httpx.Client(base_url=gateway.url) as client,
    ):
        wait_until_sync(lambda: client.get("/readyz").json()["store_forbids"] == ["XADD"], what="it is named")
        assert client.get("/readyz").status_code == 503
        _permit_all(server)
        wait_until_sync(lambda: client.get("/readyz").status_code == 200, what="it serves")


def test_check_names_what_is_missing(server: Server, tmp_path: Path) -> None:
    _forbid(server, "ZREM")
    config = configured(_url(server), tmp_path, accepts=True)
    checked = run("check", "--config", str(config), cwd=tmp_path, env={"TEST_UPSTREAM_KEY": UPSTREAM_KEY})
    assert checked.code == 0
    assert "does not let us run ZREM" in checked.out
