"""A store that may lose what the ledger must keep is named, and not started with by accident."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from gateway.store.durability import DANGERS, FATAL, inspect, read_inspection
from tests.support.gateway import running_gateway, simulator
from tests.support.ports import free_port
from tests.support.processes import CONFIG, UPSTREAM_KEY
from tests.support.program import run
from tests.support.servers import valkey_sentinel, valkey_server
from tests.support.stores import hasty, opened
from tests.support.waiting import wait_until_sync

POLICIES = {
    "noeviction": None,
    "allkeys-lru": "evicts",
    "allkeys-random": "evicts",
    "allkeys-lfu": "evicts",
    "volatile-ttl": "evicts_expiring",
    "volatile-lru": "evicts_expiring",
}


@pytest.mark.parametrize(("policy", "danger"), POLICIES.items())
async def test_a_policy_that_evicts_is_a_danger(policy: str, danger: str | None) -> None:
    with valkey_server(maxmemory_policy=policy, appendonly="yes") as server:
        async with opened(hasty(server.url)) as store:
            [found] = (await inspect(store)).values()
    assert set(found.dangers) - {"no_replica"} == ({danger} if danger else set())
    assert not danger or policy in found.explain(danger)


@pytest.mark.parametrize(
    ("appendonly", "save", "persists"), [("no", "", False), ("yes", "", True), ("no", "3600 1", True)]
)
async def test_a_store_that_keeps_nothing_on_disk_is_a_danger(appendonly: str, save: str, persists: bool) -> None:
    with valkey_server(appendonly=appendonly, save=save) as server:
        async with opened(hasty(server.url)) as store:
            [found] = (await inspect(store)).values()
    assert found.persists is persists
    assert ("not_persistent" in found.dangers) is not persists


async def test_a_store_that_keeps_its_configuration_to_itself_is_not_called_dangerous_for_that() -> None:
    with valkey_server(tcp=True) as server:
        server.run("ACL", "SETUSER", "gateway", "on", ">secret", "~*", "&*", "+@all", "-config")
        async with opened(hasty(f"redis://gateway:secret@127.0.0.1:{server.port}")) as store:
            [found] = (await inspect(store)).values()
            assert found.persists is None
            server.run("ACL", "SETUSER", "gateway", "-info")
            assert await inspect(store) == {}


async def test_a_replica_is_seen() -> None:
    with valkey_sentinel() as group:
        async with opened(hasty(group.url)) as store:
            [found] = (await inspect(store)).values()
            assert "no_replica" not in found.dangers


@pytest.mark.parametrize(("version", "old"), [("6.2.14", True), ("7.0.0", False), ("9.1.0", False), ("", False)])
def test_an_old_version_is_a_danger(version: str, old: bool) -> None:
    found = read_inspection(f"redis_version:{version}\r\naof_enabled:1\r\n".encode(), "")
    assert ("old_version" in found.dangers) is old


def test_every_danger_has_its_sentence() -> None:
    assert set(DANGERS) > FATAL


def configured(store_url: str, directory: Path, *, accepts: bool) -> Path:
    text = CONFIG.format(
        port=free_port(),
        workers=1,
        store_url=store_url,
        upstream_url="http://127.0.0.1:9/v1",
        hold_ttl_s=15.0,
        route="",
    )
    if not accepts:
        text = text.replace("accept_data_loss = true\n", "")
    config = directory / "gateway.toml"
    config.write_text(text, encoding="utf-8")
    return config


@pytest.mark.parametrize(
    ("policy", "appendonly", "word"), [("allkeys-lru", "yes", "allkeys-lru"), ("noeviction", "no", "appendonly")]
)
def test_a_gateway_does_not_start_with_a_store_that_loses_data_and_check_names_it(
    tmp_path: Path, policy: str, appendonly: str, word: str
) -> None:
    env = {"TEST_UPSTREAM_KEY": UPSTREAM_KEY}
    with valkey_server(maxmemory_policy=policy, appendonly=appendonly) as server:
        config = configured(server.url, tmp_path, accepts=False)
        started = run("serve", "--config", str(config), cwd=tmp_path, env=env)
        assert started.code == 1
        assert word in started.err
        assert "accept_data_loss" in started.err
        checked = run("check", "--config", str(config), cwd=tmp_path, env=env)
        assert checked.code == 0
        assert word in checked.out
        assert "no replica" in checked.out


def test_a_gateway_that_accepts_the_loss_starts_and_says_what_it_accepted(tmp_path: Path) -> None:
    with (
        valkey_server(maxmemory_policy="allkeys-lru") as server,
        simulator() as upstream,
        running_gateway(server.url, upstream, tmp_path) as gateway,
        httpx.Client(base_url=gateway.url) as client,
    ):

        def dangers() -> list[str]:
            found: list[str] = client.get("/readyz").json()["store_dangers"]
            return found

        wait_until_sync(lambda: dangers() == ["evicts", "no_replica", "not_persistent"])
        assert client.get("/readyz").status_code == 200, "it serves all the same"
        assert 'gateway_store_dangers{danger="evicts"} 1' in client.get("/metrics").text
