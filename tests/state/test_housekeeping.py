"""What is kept of a team: operators see how much it is and delete all of it, and bounds hold for conversations too."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import GatewayError
from gateway.state.conversations import Conversations
from gateway.state.items import as_items
from gateway.state.responses import StatePolicy
from gateway.store.keyspace import TeamKeys
from tests.state.answers import MODEL, answer
from tests.support.admins import admin_client, done
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.ledgers import LedgerParts
from tests.support.post_only_provider import PostOnlyProvider
from tests.support.servers import Server
from tests.support.waiting import wait_until_sync

LARGE = 1024 * 1024


def test_a_team_s_state_is_counted_and_deleted_and_no_other_s(
    provider: PostOnlyProvider, gateway: RunningGateway
) -> None:
    key, other = gateway.new_key(), gateway.new_key()
    released = threading.Event()
    with gateway.http(key) as client, gateway.http(other) as stranger, admin_client(gateway) as root:
        for caller, identifier in [(client, "resp_mine_1"), (client, "resp_mine_2"), (stranger, "resp_theirs")]:
            provider.next(answer("kept", identifier))
            caller.post("/v1/responses", json={"model": MODEL, "input": "x"})
        made = client.post("/v1/conversations", json={"items": as_items("said")}).json()
        provider.next(answer("for a while", "gen"))
        asked = {"model": MODEL, "input": "x", "background": True, "store": False}
        while_kept = client.post("/v1/responses", json=asked).json()["id"]
        wait_until_sync(
            lambda: client.get(f"/v1/responses/{while_kept}").json()["status"] == "completed", what="it has ended"
        )
        left = len(provider.left)
        provider.next(replace(answer("running", "gen"), released=released))
        running = client.post("/v1/responses", json={"model": MODEL, "input": "x", "background": True}).json()["id"]
        wait_until_sync(
            lambda: client.get(f"/v1/responses/{running}").json()["status"] == "in_progress", what="it runs"
        )
        path = f"/teams/{key.team.id}/state"
        usage = done(root.get(path))
        assert (usage["responses"], usage["conversations"], usage["background"]) == (3, 1, 1)
        assert usage["response_bytes"] > 100
        assert usage["conversation_bytes"] > 256
        assert done(root.delete(path)) == usage
        empty = done(root.get(path))
        assert {name: value for name, value in empty.items() if isinstance(value, int)} == dict.fromkeys(
            ("responses", "response_bytes", "conversations", "conversation_bytes", "background"), 0
        )
        for identifier in ("resp_mine_1", "resp_mine_2", while_kept, running):
            assert client.get(f"/v1/responses/{identifier}").status_code == 404
        assert client.get(f"/v1/conversations/{made['id']}").status_code == 404
        assert stranger.get("/v1/responses/resp_theirs").status_code == 200
        wait_until_sync(lambda: len(provider.left) == left + 1, what="the work in the background was ended")
        wait_until_sync(lambda: not gateway.balance(key).held, what="nothing is held")
        run = gateway.services.store.run

        async def names() -> list[bytes]:
            found: list[bytes] = await run("KEYS", f"gw:{{{key.team.id}}}:*", key=TeamKeys(key.team.id).team)
            return found

        kept = ("response", "conversation", "events", "temporary")
        assert [name for name in gateway.run(names()) if name.decode().rpartition("}:")[2].startswith(kept)] == []
        audited = done(root.get("/audit", params={"team": key.team.id}))["data"]
        assert "DELETE /teams/{team}/state" in [entry["action"] for entry in audited]


def kept(ledgers: LedgerParts, team_bytes: int) -> Conversations:
    return Conversations(ledgers.store, StatePolicy(60, LARGE, team_bytes, 100, LARGE))


async def test_over_the_team_s_bytes_the_conversations_that_were_unused_longest_go(ledgers: LedgerParts) -> None:
    conversations = kept(ledgers, 2000)
    words = " ".join(str(number) for number in range(300))  # some 700 bytes, compressed
    made = []
    for _ in range(3):
        made.append(await conversations.create("team-bytes", {}, as_items(words)))
        await asyncio.sleep(0.005)  # the last change is kept in ms by the store: another one must have begun
    alive = []
    for conversation in made:
        try:
            alive.append(len((await conversations.read("team-bytes", conversation.id)).items))
        except GatewayError:
            alive.append(-1)
    assert alive[-1] == 1
    assert alive[0] == -1
    count, size = await conversations.usage("team-bytes")
    assert count == sum(found >= 0 for found in alive)
    assert size <= 2000


async def test_one_conversation_alone_beyond_the_team_s_bytes_is_refused(ledgers: LedgerParts) -> None:
    conversations = kept(ledgers, 300)
    made = await conversations.create("team-alone", {}, [])
    with pytest.raises(GatewayError):
        await conversations.append("team-alone", made.id, as_items(" ".join(map(str, range(300)))))


async def test_an_account_of_conversations_forgets_those_that_have_expired(ledgers: LedgerParts) -> None:
    conversations = Conversations(ledgers.store, StatePolicy(1, LARGE, LARGE, 100, LARGE))
    made = await conversations.create("team-expired", {}, as_items("x"))
    use, _ = TeamKeys("team-expired").conversation_account
    await ledgers.store.run("ZADD", use, "1", made.id)
    await conversations.create("team-expired", {}, [])
    assert (await conversations.usage("team-expired"))[0] == 1


@pytest.mark.parametrize(
    "metadata", [{"a": 1}, {"n" * 65: "x"}, {"n": "v" * 513}, {str(n): "v" for n in range(17)}, "x"]
)
def test_metadata_is_bounded(gateway: RunningGateway, metadata: Any) -> None:
    with gateway.http(gateway.new_key()) as client:
        got = client.post("/v1/conversations", json={"metadata": metadata})
        assert (got.status_code, got.json()["error"]["param"]) == (400, "metadata")
        assert client.post("/v1/conversations", json={"metadata": {"n" * 64: "v" * 512}}).status_code == 200


def test_the_command_line_shows_and_deletes(
    gateway: RunningGateway, provider: PostOnlyProvider, tmp_path: Path
) -> None:
    from tests.support.gateway import ADMIN_KEY  # noqa: PLC0415 - beside the one test of the program
    from tests.support.program import run  # noqa: PLC0415 - the same

    key = gateway.new_key()
    provider.next(answer("kept", "resp_by_cli"))
    with gateway.http(key) as client:
        client.post("/v1/responses", json={"model": MODEL, "input": "x"})
        env = {"GATEWAY_URL": gateway.url, "GATEWAY_ADMIN_KEY": ADMIN_KEY}
        shown = run("state", "usage", "--team", key.team.name, cwd=tmp_path, env=env)
        assert (shown.code, "responses" in shown.out) == (0, True)
        refused = run("state", "purge", "--team", key.team.name, cwd=tmp_path, env=env)
        assert refused.code != 0
        assert client.get("/v1/responses/resp_by_cli").status_code == 200
        purged = run("state", "purge", "--team", key.team.name, "--yes", cwd=tmp_path, env=env)
        assert purged.code == 0
        assert client.get("/v1/responses/resp_by_cli").status_code == 404


def test_of_a_team_for_which_it_is_off_nothing_is_kept(
    shared_store: Server, provider: PostOnlyProvider, gateway: RunningGateway, tmp_path: Path
) -> None:
    key = gateway.new_key()
    state = {"off_for_teams": [key.team.id]}
    with (
        running_gateway(shared_store.url, provider.url, tmp_path, route={"state": "gateway"}, state=state) as off,
        off.http(key) as client,
    ):
        provider.next(answer("fine", "resp_off"))
        got = client.post("/v1/responses", json={"model": MODEL, "input": "x"}).json()
        assert got["store"] is False
        assert client.get("/v1/responses/resp_off").status_code == 404
        assert client.post("/v1/conversations", json={}).status_code == 403
    with admin_client(gateway) as root:
        usage = done(root.get(f"/teams/{key.team.id}/state"))
    assert (usage["responses"], usage["conversations"]) == (0, 0)
