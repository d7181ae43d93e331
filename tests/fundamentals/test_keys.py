"""Keys: who is admitted, what a stranger learns, and what the store knows of a key."""

import time
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from gateway.accounts.accounts import Changes
from gateway.identity.api_keys import new_id, new_secret
from tests.support.gateway import NewKey, RunningGateway, running_gateway
from tests.support.servers import Server, valkey_server
from tests.support.waiting import wait_until_sync

BODY = {"model": "o4-mini", "input": "Hello"}
UNKNOWN = new_secret(new_id(), new_id())[0]


def answer(gateway: RunningGateway, key: str) -> tuple[int, str]:
    with gateway.http(key) as http:
        found = http.post("/v1/responses", json=BODY)
        return found.status_code, found.text


def change(gateway: RunningGateway, key: NewKey, *, team: Changes | None = None, itself: Changes | None = None) -> None:
    async def apply() -> None:
        accounts = gateway.services.accounts
        if team is not None:
            await accounts.update_team(key.team, team)
        if itself is not None:
            await accounts.update_key(key.team, await accounts.key(key.team, key.id), itself)

    gateway.run(apply())


PAST_MS = 1_000
DEAD = [
    {"itself": Changes(status="disabled")},
    {"itself": Changes(expires_ms=PAST_MS)},
    {"team": Changes(status="disabled")},
    {"team": Changes(expires_ms=PAST_MS)},
]


@pytest.mark.parametrize("how", range(len(DEAD)))
@pytest.mark.parametrize("path", ["/v1/responses", "/v1/models", "/v1/key"])
def test_a_dead_key_reads_exactly_as_one_that_never_was(gateway: RunningGateway, how: int, path: str) -> None:
    key = gateway.new_key()
    with gateway.http(key) as http:
        method = "POST" if path == "/v1/responses" else "GET"
        body = BODY if method == "POST" else None
        assert http.request(method, path, json=body).status_code == 200
        change(gateway, key, **DEAD[how])
        dead = http.request(method, path, json=body)
    with gateway.http(UNKNOWN) as http:
        unknown = http.request(method, path, json=body)
    with gateway.http("sk-gw-malformed") as http:
        malformed = http.request(method, path, json=body)
    assert {found.status_code for found in (dead, unknown, malformed)} == {401}
    assert dead.text == unknown.text == malformed.text
    assert dead.json()["error"]["code"] == "invalid_api_key"


def test_a_key_that_expires_tomorrow_is_alive(gateway: RunningGateway) -> None:
    key = gateway.new_key()
    change(gateway, key, itself=Changes(expires_ms=int(time.time() * 1000) + 86_400_000))
    assert answer(gateway, key.text)[0] == 200


def test_a_key_of_another_team_with_this_keys_secret_is_unknown(gateway: RunningGateway, key: NewKey) -> None:
    other = gateway.new_key()
    forged = new_secret(other.team.id, key.id)[0]
    assert answer(gateway, forged)[0] == 401


@pytest.mark.parametrize("place", [6, 17, 30, 71, -1])
def test_a_mistyped_key_is_refused(gateway: RunningGateway, key: NewKey, place: int) -> None:
    wrong = "1" if key.text[place] == "0" else "0"
    mistyped = key.text[:place] + wrong + key.text[place:][1:]
    assert len(mistyped) == len(key.text)
    assert answer(gateway, mistyped)[0] == 401


def test_the_sdk_raises_its_authentication_error(gateway: RunningGateway) -> None:
    with gateway.sdk("sk-gw-nobody") as client, pytest.raises(openai.AuthenticationError) as caught:
        client.responses.create(**BODY)  # type: ignore[call-overload]  # a dict for its overloads
    assert caught.value.request_id
    assert caught.value.code == "invalid_api_key"


@pytest.fixture(scope="module")
def own_store() -> Iterator[Server]:
    with valkey_server() as server:
        yield server


@pytest.fixture(scope="module")
def own_gateway(own_store: Server, upstream: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway whose store may be stopped."""
    data: Path = tmp_path_factory.mktemp("keys")
    with running_gateway(own_store.url, upstream, data, store={"timeout_s": 0.2, "connect_timeout_s": 0.2}) as running:
        yield running


def test_a_malformed_key_never_reaches_the_store(own_gateway: RunningGateway, own_store: Server) -> None:
    own_store.pause()
    try:
        assert answer(own_gateway, UNKNOWN)[0] == 503
        for malformed in ("", "sk-gw-x", UNKNOWN[:-1], UNKNOWN[:-1] + "g", UNKNOWN + "0", "sk-proj-abc"):
            assert answer(own_gateway, malformed)[0] == 401
    finally:
        own_store.resume()
    wait_until_sync(lambda: own_gateway.services.store.available, what="the store is back")


def everything(server: Server) -> str:
    """Every key and value of the store, as text."""
    read = {
        b"string": "GET",
        b"hash": "HGETALL",
        b"zset": "ZRANGE",
        b"stream": "XRANGE",
        b"set": "SMEMBERS",
        b"none": "GET",
    }
    ends = {"ZRANGE": ["0", "-1"], "XRANGE": ["-", "+"]}
    found = []
    for name in server.run("KEYS", "*"):  # one may expire meanwhile
        command = read[server.run("TYPE", name)]
        found.append(f"{name} {server.run(command, name, *ends.get(command, []))}")
    return "\n".join(found)


def test_the_store_knows_a_key_by_its_digest_alone(own_gateway: RunningGateway, own_store: Server) -> None:
    key = own_gateway.new_key()
    assert answer(own_gateway, key.text)[0] == 200
    secret = key.text.rpartition("-")[2]
    stored = everything(own_store)
    assert key.id in stored
    for size in (len(secret), 43, 20):
        assert secret[:size] not in stored


def test_the_data_directory_knows_no_key(own_gateway: RunningGateway) -> None:
    key = own_gateway.new_key()
    answer(own_gateway, key.text)
    directory = own_gateway.services.settings.store.data_dir
    secret = key.text.rpartition("-")[2].encode()
    assert all(secret not in path.read_bytes() for path in directory.rglob("*") if path.is_file())
