"""Rotation in the ledger: which secrets work, for how long, and what a repeat gives."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.accounts.entities import Changes, Key, Team
from gateway.accounts.idempotency import IdempotencyKey
from gateway.accounts.rotation import MAX_SECRETS, Rotation
from gateway.errors import GatewayError
from gateway.identity.api_keys import parse_api_key
from gateway.ledger.admissions import AdmissionRefused
from gateway.store.keyspace import TeamKeys
from tests.support.ledgers import DAY_S, LedgerParts, ask, open_ledger, settled
from tests.support.servers import Server

PEPPER = b"the operator's"


class Bench:
    """One key, its texts, and what rotates it."""

    def __init__(self, parts: LedgerParts, rotation: Rotation, team: Team, key: Key, text: str) -> None:
        self.parts, self.rotation, self.team, self.key, self.text = parts, rotation, team, key, text

    async def rotate(self, overlap_s: int, once: IdempotencyKey | None = None) -> str:
        _, text = await self.rotation.rotate(self.team, self.key, overlap_s, once)
        return text

    async def works(self, text: str) -> bool:
        """Whether the admission script takes the secret; what it reserves is settled at once."""
        try:
            admission = await self.parts.ledger.admit(ask(parse_api_key(text)))
        except AdmissionRefused as refused:
            return refused.code != "invalid_api_key"
        await self.parts.ledger.settle(settled(admission.hold, 1))
        return True

    async def let_overlaps_end(self) -> None:
        """Moves the ends of all secrets that have one into the past."""
        name = TeamKeys(self.team.id).key(self.key.id)
        for secret in (await self.parts.accounts.key(self.team, self.key.id)).secrets:
            if secret.until_ms:
                await self.parts.store.run("HSET", name, f"s:{secret.sha256}", "1")


async def open_bench(parts: LedgerParts) -> Bench:
    team = await parts.accounts.create_team(Changes(name=f"team-{os.urandom(6).hex()}"))
    await parts.accounts.move_credits(team, "grant", 1_000_000)
    key, text = await parts.accounts.create_key(team, Changes(name="k", limits={"budget_usd_total": 1000}))
    return Bench(parts, Rotation(parts.store, parts.accounts, idempotency_ttl_s=DAY_S), team, key, text)


@pytest.fixture
async def bench(store: Server, tmp_path: Path) -> AsyncIterator[Bench]:
    async with open_ledger(store.url, tmp_path) as parts:
        yield await open_bench(parts)


async def test_a_new_secret_works_at_once_and_the_old_one_until_its_overlap_ends(bench: Bench) -> None:
    new = await bench.rotate(3600)
    assert await bench.works(new)
    assert await bench.works(bench.text)
    await bench.let_overlaps_end()
    assert await bench.works(new)
    assert not await bench.works(bench.text)


async def test_without_an_overlap_every_old_secret_ends_at_once(bench: Bench) -> None:
    second = await bench.rotate(3600)
    third = await bench.rotate(0)
    assert [await bench.works(text) for text in (bench.text, second, third)] == [False, False, True]


async def test_id_limits_and_spend_stay(bench: Bench) -> None:
    assert await bench.works(bench.text)
    before = await bench.parts.accounts.view(bench.team, bench.key.id)
    new = await bench.rotate(0)
    after = await bench.parts.accounts.view(bench.team, bench.key.id)
    rotated = await bench.parts.accounts.key(bench.team, bench.key.id)
    assert (rotated.id, rotated.name, rotated.limits) == (bench.key.id, bench.key.name, bench.key.limits)
    assert after.key["used_total_usd"] == before.key["used_total_usd"] == 1
    assert await bench.works(new)
    assert (await bench.parts.accounts.view(bench.team, bench.key.id)).key["used_total_usd"] == 2


async def test_a_later_rotation_does_not_shorten_an_overlap_that_was_promised(bench: Bench) -> None:
    await bench.rotate(7200)
    await bench.rotate(60)
    key = await bench.parts.accounts.key(bench.team, bench.key.id)
    forever, *overlaps = key.secrets
    assert forever.until_ms == 0
    assert 7000_000 < overlaps[0].until_ms - overlaps[1].until_ms <= 7200_000


async def test_too_many_secrets_at_once_are_refused_with_the_time_to_wait(bench: Bench) -> None:
    texts = [bench.text, *[await bench.rotate(3600) for _ in range(MAX_SECRETS - 1)]]
    with pytest.raises(GatewayError) as refused:
        await bench.rotate(3600)
    assert refused.value.code == "too_many_secrets"
    assert refused.value.wait_ms is not None
    assert 0 < refused.value.wait_ms <= 3600_000
    assert all([await bench.works(text) for text in texts]), "nothing was changed"
    await bench.let_overlaps_end()
    await bench.rotate(3600)
    key = await bench.parts.accounts.key(bench.team, bench.key.id)
    assert len(key.secrets) == 2, "those that had ended are gone"


async def test_a_repeat_gives_the_same_secret_and_rotates_once(bench: Bench) -> None:
    once = IdempotencyKey("rotate-1", "asked", PEPPER)
    first = await bench.rotate(3600, once)
    again = await bench.rotate(3600, once)
    assert first == again
    assert len((await bench.parts.accounts.key(bench.team, bench.key.id)).secrets) == 2


async def test_a_repeat_completes_a_rotation_that_died_after_its_claim(bench: Bench) -> None:
    once = IdempotencyKey("rotate-2", "asked", PEPPER)
    await bench.parts.store.run(
        "SET", TeamKeys(bench.team.id).rotated(once.key), f"k {once.request} salt", "PX", "9999"
    )
    text = await bench.rotate(3600, once)
    assert await bench.works(text)


async def test_a_late_repeat_brings_no_replaced_secret_back(bench: Bench) -> None:
    once = IdempotencyKey("rotate-3", "asked", PEPPER)
    first = await bench.rotate(3600, once)
    second = await bench.rotate(0)
    assert await bench.rotate(3600, once) == ""
    assert not await bench.works(first)
    assert await bench.works(second)


async def test_an_idempotency_key_of_another_rotation_is_refused(bench: Bench) -> None:
    await bench.rotate(3600, IdempotencyKey("rotate-4", "one", PEPPER))
    with pytest.raises(GatewayError) as refused:
        await bench.rotate(3600, IdempotencyKey("rotate-4", "another", PEPPER))
    assert refused.value.code == "idempotency_mismatch"


async def test_a_revoked_key_is_not_rotated(bench: Bench) -> None:
    await bench.parts.accounts.update_key(bench.team, bench.key, Changes(status="revoked"))
    with pytest.raises(GatewayError) as refused:
        await bench.rotate(0)
    assert refused.value.code == "not_allowed"


async def test_each_secret_tells_when_it_was_last_used(bench: Bench) -> None:
    new = await bench.rotate(3600)
    assert await bench.works(bench.text)
    used = {
        secret.sha256: secret.last_used_ms
        for secret in (await bench.parts.accounts.key(bench.team, bench.key.id)).secrets
    }
    assert used[parse_api_key(bench.text).secret_hash] > 0
    assert used[parse_api_key(new).secret_hash] == 0


async def test_a_key_is_found_by_its_id_alone(bench: Bench) -> None:
    team, key = await bench.parts.accounts.find_key(bench.key.id)
    assert (team.id, key.id) == (bench.team.id, bench.key.id)
    with pytest.raises(GatewayError):
        await bench.parts.accounts.find_key("0123456789")


@settings(max_examples=15)
@given(st.lists(st.sampled_from(["overlap", "now", "overlaps end"]), max_size=12))
async def test_whatever_the_order_the_promised_secrets_work_and_never_more_than_the_bound(
    store: Server, tmp_path: Path, steps: list[str]
) -> None:
    async with open_ledger(store.url, tmp_path) as parts:
        bench = await open_bench(parts)
        alive, ended, last = {bench.text}, set[str](), bench.text
        for step in steps:
            if step == "overlaps end":
                await bench.let_overlaps_end()
                keep = {last}
            elif step == "overlap" and len(alive) == MAX_SECRETS:
                with pytest.raises(GatewayError, match="secrets that work"):
                    await bench.rotate(3600)
                continue
            else:
                last = await bench.rotate(3600 if step == "overlap" else 0)
                keep = {last} if step == "now" else {*alive, last}
            ended |= alive - keep
            alive = keep
        assert all([await bench.works(text) for text in alive])
        assert not any([await bench.works(text) for text in ended])
