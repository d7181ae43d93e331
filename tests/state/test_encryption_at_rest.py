"""With a key of the operator's, nothing that a team has said lies readable in the store, and old keys still open it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.state.records import unpack_bytes
from gateway.state.sealing import STATE, SealingKeys
from tests.state.answers import MODEL, answer
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.post_only_provider import PostOnlyProvider
from tests.support.servers import Server
from tests.support.waiting import wait_until_sync

SAID = "a-word-that-nobody-else-says"
OLD, NEW = "old-key-of-the-state-with-32-characters", "new-key-of-the-state-with-32-characters"


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLD_STATE_KEY", OLD)
    monkeypatch.setenv("NEW_STATE_KEY", NEW)


def opened(reply: Any) -> Iterator[bytes]:
    """What anybody reads in a reply of the store: what was packed and not sealed, opened; other values as they are."""
    if isinstance(reply, bytes):
        try:
            yield unpack_bytes(reply, "")
        except ValueError:
            yield reply
    elif isinstance(reply, (list, tuple)):
        for part in reply:
            yield from opened(part)


def everything_in(gateway: RunningGateway, team_id: str) -> list[bytes]:
    """All values in the store that belong to a team, as anybody reads them."""

    async def read() -> list[bytes]:
        run, found = gateway.services.store.run, list[bytes]()
        for name in await run("KEYS", f"gw:{{{team_id}}}:*", key=f"gw:{{{team_id}}}:x"):
            kind = await run("TYPE", name)
            read_all: dict[bytes, tuple[Any, ...]] = {
                b"hash": ("HGETALL", name),
                b"string": ("GET", name),
                b"stream": ("XRANGE", name, "-", "+"),
            }
            if kind in read_all:
                found += opened(await run(*read_all[kind]))
        return found

    return gateway.run(read())


def test_nothing_that_was_said_lies_readable_in_the_store(
    shared_store: Server, provider: PostOnlyProvider, tmp_path: Path
) -> None:
    state = {"encryption_keys": ["env:OLD_STATE_KEY"]}
    with running_gateway(shared_store.url, provider.url, tmp_path, route={"state": "gateway"}, state=state) as gateway:
        key = gateway.new_key()
        with gateway.http(key) as client:
            made = client.post("/v1/conversations", json={"metadata": {"topic": SAID}}).json()
            for body in (
                {"conversation": made["id"]},
                {"background": True, "stream": True},
                {"background": True, "store": False},
            ):
                provider.next(answer(SAID, "gen"))
                got = client.post("/v1/responses", json={"model": MODEL, "input": SAID, **body})
                assert got.status_code == 200
            wait_until_sync(lambda: not gateway.balance(key).held, what="all have ended")
            assert client.get(f"/v1/conversations/{made['id']}").json()["metadata"] == {"topic": SAID}
        values = everything_in(gateway, key.team.id)
    assert len(values) > 10
    assert [value for value in values if SAID.encode() in value] == []


def test_a_key_is_replaced_while_serving_and_what_lies_in_the_clear_stays_readable(
    shared_store: Server, provider: PostOnlyProvider, tmp_path: Path
) -> None:
    stages = {
        "clear": [],
        "old": ["env:OLD_STATE_KEY"],
        "both": ["env:NEW_STATE_KEY", "env:OLD_STATE_KEY"],
        "new": ["env:NEW_STATE_KEY"],
    }
    key, readable = None, {}
    for name, keys in stages.items():
        state = {"encryption_keys": keys}
        with running_gateway(
            shared_store.url, provider.url, tmp_path / name, route={"state": "gateway"}, state=state
        ) as gateway:
            key = key or gateway.new_key()
            provider.next(answer(f"said {name}", f"resp_{name}_{key.id}"))
            with gateway.http(key) as client:
                client.post("/v1/responses", json={"model": MODEL, "input": "x"})
                readable[name] = [
                    stage for stage in stages if client.get(f"/v1/responses/resp_{stage}_{key.id}").status_code == 200
                ]
    assert readable == {
        "clear": ["clear"],
        "old": ["clear", "old"],
        "both": ["clear", "old", "both"],
        "new": ["clear", "both", "new"],
    }


def test_a_record_of_one_team_does_not_open_as_anothers() -> None:
    sealed = SealingKeys([OLD.encode()], STATE).seal(b"x", "team-a")
    with pytest.raises(ValueError, match="team"):
        SealingKeys([OLD.encode()], STATE).open(sealed, "team-b")
