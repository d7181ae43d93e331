"""An ACL that forbids single commands to the scripts of every request, which ask about some of their commands alone.

Whichever command is forbidden, in each branch of theirs: a call is applied whole, or it changes nothing. A command that
would have come after the first write is named by the script. The inspection names all (test_forbidden_commands).
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import pytest
import redis

from gateway.accounts.entities import Changes
from gateway.billing.settlement import Hold
from gateway.errors import GatewayError
from gateway.identity.api_keys import ApiKey
from gateway.ledger.admission_call import ADMIT
from gateway.ledger.known_responses import ResponseMemory
from gateway.ledger.packed_entry import fingerprint
from gateway.ledger.settlement_call import SETTLE
from gateway.store.errors import StoreUnavailable
from gateway.store.keyspace import TeamKeys
from gateway.store.script import Script
from gateway.store.store import Store
from tests.support.counters import set_counters
from tests.support.ledgers import LedgerParts, ask, open_ledger, settled, voided
from tests.support.servers import STORES, Server, binary_of, valkey_server

pytestmark = pytest.mark.timeout(180)
COMMANDS: Final = sorted({*ADMIT.commands, *SETTLE.commands})
LARGE: Final = 2**52
Prepare = Callable[[LedgerParts, Server, ApiKey], Coroutine[Any, Any, Callable[[], Awaitable[object]]]]


@pytest.fixture(scope="module", params=STORES)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with valkey_server(tcp=True, binary=binary_of(request.param)) as server:
        server.run("ACL", "SETUSER", "gateway", "reset", "on", ">secret", "~*", "&*", "+@all")
        yield server


@pytest.fixture
async def parts(server: Server, tmp_path: Path) -> AsyncIterator[LedgerParts]:
    async with open_ledger(f"redis://gateway:secret@127.0.0.1:{server.port}", tmp_path, hold_ttl_s=600.0) as parts:
        yield parts


async def _admission(parts: LedgerParts, key: ApiKey, **changes: Any) -> Callable[[], Awaitable[object]]:
    return lambda: parts.ledger.admit(ask(key, **changes))


async def _plain(parts: LedgerParts, _: Server, key: ApiKey) -> Callable[[], Awaitable[object]]:
    return await _admission(parts, key)


async def _with_an_idempotency_key(parts: LedgerParts, _: Server, key: ApiKey) -> Callable[[], Awaitable[object]]:
    return await _admission(parts, key, idempotency_key="one")


async def _free(parts: LedgerParts, _: Server, key: ApiKey) -> Callable[[], Awaitable[object]]:
    return await _admission(parts, key, free=True)


async def _of_a_large_total(parts: LedgerParts, server: Server, key: ApiKey) -> Callable[[], Awaitable[object]]:
    set_counters(server, key.team_id, key.key_id, "key", total_usd=LARGE)
    return await _admission(parts, key)


async def _that_joins_the_queue(parts: LedgerParts, _: Server, key: ApiKey) -> Callable[[], Awaitable[object]]:
    await parts.ledger.admit(ask(key))
    await _limit(parts, key, concurrency=1, queue_s=9, queue_length=9)
    return await _admission(parts, key, waits=True)


async def _whose_turn_has_come(parts: LedgerParts, server: Server, key: ApiKey) -> Callable[[], Awaitable[object]]:
    await _limit(parts, key, concurrency=1, queue_s=9, queue_length=9)
    # One that has gone with its worker is taken out on the way.
    queue = TeamKeys(key.team_id).queue
    server.run("HSET", queue, "req_gone", f"1 1 {key.key_id} team")
    server.run("PEXPIRE", queue, 60_000)
    return await _admission(parts, key, waits=True, idempotency_key="two")


async def _limit(parts: LedgerParts, key: ApiKey, **limits: int) -> None:
    await parts.accounts.update_team(await parts.accounts.team(key.team_id), Changes(limits=limits))


async def _settlement(
    parts: LedgerParts, key: ApiKey, *, memory: ResponseMemory | None = None, changes: dict[str, Any], **asked: Any
) -> Callable[[], Awaitable[object]]:
    hold = (await parts.ledger.admit(ask(key, **asked))).hold
    return lambda: parts.ledger.settle(settled(hold, cost=7)._replace(**changes), memory)


async def _under_rules(parts: LedgerParts, _: Server, key: ApiKey) -> Callable[[], Awaitable[object]]:
    await _ruled(parts, key)
    return await _admission(parts, key)


async def _settled_under_rules(parts: LedgerParts, _: Server, key: ApiKey) -> Callable[[], Awaitable[object]]:
    await _ruled(parts, key)
    return await _settlement(parts, key, changes={})


async def _under_rules_without_its_hold(parts: LedgerParts, _: Server, key: ApiKey) -> Callable[[], Awaitable[object]]:
    await _ruled(parts, key)
    return await _without_its_hold(parts, _, key)


async def _ruled(parts: LedgerParts, key: ApiKey) -> None:
    """Gives the team limits beyond the plain ones, and a calendar."""
    limits = {"budget_usd_week": 900, "budget_tokens_7d": 900, "budget_usd_day": 900}
    team = await parts.accounts.team(key.team_id)
    await parts.accounts.update_team(team, Changes(limits=limits, timezone="Asia/Kolkata"))
    await parts.ledger.settle(voided((await parts.ledger.admit(ask(key))).hold))


async def _settled(parts: LedgerParts, _: Server, key: ApiKey) -> Callable[[], Awaitable[object]]:
    return await _settlement(parts, key, changes={})


async def _settled_again_in_known_words(parts: LedgerParts, _: Server, key: ApiKey) -> Callable[[], Awaitable[object]]:
    await (await _settlement(parts, key, changes={}))()
    return await _settlement(parts, key, changes={})


async def _remembered(parts: LedgerParts, server: Server, key: ApiKey) -> Callable[[], Awaitable[object]]:
    shown = "resp_shown"
    server.run("SET", TeamKeys(key.team_id).response(shown), "running", "PX", 60_000)
    memory = ResponseMemory(fingerprint("resp_a"), "0123", "", "resp_a", shown)
    return await _settlement(parts, key, memory=memory, changes={"response_id": "resp_a"})


async def _after_attempts(parts: LedgerParts, _: Server, key: ApiKey) -> Callable[[], Awaitable[object]]:
    return await _settlement(parts, key, changes={"attempts": ('{"upstream":"a"}', '{"upstream":"b"}')})


async def _that_pauses(parts: LedgerParts, _: Server, key: ApiKey) -> Callable[[], Awaitable[object]]:
    return await _settlement(parts, key, changes={"cost_nano_usd": 900, "pauses": True})


async def _of_an_idempotency_key(parts: LedgerParts, _: Server, key: ApiKey) -> Callable[[], Awaitable[object]]:
    return await _settlement(parts, key, changes={}, idempotency_key="three")


async def _of_large_sums(parts: LedgerParts, server: Server, key: ApiKey) -> Callable[[], Awaitable[object]]:
    settle = await _settlement(parts, key, changes={})
    set_counters(server, key.team_id, key.key_id, "team", total_usd=LARGE)
    server.run("HSET", TeamKeys(key.team_id).state, "spent", LARGE)
    return settle


async def _voided(parts: LedgerParts, _: Server, key: ApiKey) -> Callable[[], Awaitable[object]]:
    hold = (await parts.ledger.admit(ask(key, idempotency_key="four"))).hold
    return lambda: parts.ledger.settle(voided(hold))


async def _without_its_hold(parts: LedgerParts, _: Server, key: ApiKey) -> Callable[[], Awaitable[object]]:
    hold = Hold("req_00aa", key.team_id, key.key_id, 10, 1, 1, 0, unchecked_secret=key.secret_hash)
    return lambda: parts.ledger.settle(settled(hold, cost=7))


async def _posted_twice(parts: LedgerParts, _: Server, key: ApiKey) -> Callable[[], Awaitable[object]]:
    settle = await _settlement(parts, key, changes={})
    await settle()
    return settle


# What is called, and its script.
CALLS: Final[Mapping[Prepare, Script]] = MappingProxyType(
    {
        **dict.fromkeys((_plain, _with_an_idempotency_key, _free, _of_a_large_total), ADMIT),
        **dict.fromkeys((_that_joins_the_queue, _whose_turn_has_come, _under_rules), ADMIT),
        **dict.fromkeys((_settled_under_rules, _under_rules_without_its_hold), SETTLE),
        **dict.fromkeys((_settled, _settled_again_in_known_words, _remembered, _after_attempts, _that_pauses), SETTLE),
        **dict.fromkeys((_of_an_idempotency_key, _of_large_sums, _voided, _without_its_hold, _posted_twice), SETTLE),
    }
)


@pytest.mark.parametrize("prepare", CALLS, ids=lambda prepare: prepare.__name__)
async def test_a_call_that_lacks_a_command_changes_nothing(
    server: Server, parts: LedgerParts, monkeypatch: pytest.MonkeyPatch, prepare: Prepare
) -> None:
    script = CALLS[prepare]
    refused: dict[str, str] = {}
    for command in COMMANDS:
        key = await parts.new_key(credit=1000)
        call = await prepare(parts, server, key)
        before = _contents(server, key)
        server.run("ACL", "SETUSER", "gateway", f"-{command.lower()}")
        try:
            with monkeypatch.context() as patched:
                errors = _errors_of(patched, script.name)
                await _attempted(call)
        finally:
            server.run("ACL", "SETUSER", "gateway", f"+{command.lower()}")
        if errors:
            assert _contents(server, key) == before, command
            refused[command] = str(errors[0])
        else:
            assert command not in refused
    assert {"HMGET", "HSET", "XADD" if script is SETTLE else "ZADD"} <= refused.keys() or prepare in (_free, *UNWRITTEN)
    for command, error in refused.items():
        assert error.startswith("NOPERM"), command
        assert "may not run" not in error or command in error
    assert any("may not run" in error for error in refused.values()) or prepare in (_free, *UNWRITTEN)


UNWRITTEN: Final = (_posted_twice, _that_joins_the_queue)
"""Calls that post and hold nothing."""


def _errors_of(patched: pytest.MonkeyPatch, name: str) -> list[StoreUnavailable]:
    """The errors that the store gives to calls of a script from now on."""
    errors: list[StoreUnavailable] = []
    call = Store.call

    def noted(store: Store, script: Any, *words: Any, **options: Any) -> Any:
        reply = call(store, script, *words, **options)
        if script.name == name:
            reply.add_done_callback(
                lambda done: errors.append(error) if isinstance(error := done.exception(), StoreUnavailable) else None
            )
        return reply

    patched.setattr(Store, "call", noted)
    return errors


async def _attempted(call: Callable[[], Awaitable[object]]) -> None:
    """Makes a call. An admission may be refused, for want of the command or of a slot; a settlement never is."""
    with contextlib.suppress(GatewayError):
        await call()


def _contents(server: Server, key: ApiKey) -> dict[bytes, object]:
    """Everything that the store has of a team."""
    with redis.Redis(port=server.port) as client:
        read: dict[bytes, Callable[[bytes], object]] = {
            b"hash": client.hgetall,
            b"string": client.get,
            b"stream": client.xrange,
            b"zset": lambda name: client.zrange(name, 0, -1, withscores=True),
        }
        names = client.scan_iter(match=f"*{{{key.team_id}}}*", count=1000)
        return {name: read[client.type(name)](name) for name in names}
