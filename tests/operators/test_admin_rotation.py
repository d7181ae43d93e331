"""An admin key gets a new secret as an API key does: the old one works for an overlap, the holder stays the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from gateway.accounts.rotation import MAX_SECRETS
from tests.support.admins import admin_client, code_of, done
from tests.support.gateway import RunningGateway
from tests.support.waiting import wait_until_sync


@pytest.fixture
def root(gateway: RunningGateway) -> Iterator[httpx.Client]:
    with admin_client(gateway) as client:
        yield client


@pytest.fixture
def made(root: httpx.Client) -> Any:
    return done(root.post("/admin-keys", json={"name": "rotated", "scope": "read"}))


def rotate(root: httpx.Client, admin_id: str, overlap_s: int, once: str | None = None) -> httpx.Response:
    headers = {"idempotency-key": once} if once else {}
    return root.post(f"/admin-keys/{admin_id}/rotate", json={"overlap_s": overlap_s}, headers=headers)


def holder(gateway: RunningGateway, key: str) -> str:
    """Whose key it is, or the code of its refusal."""
    with admin_client(gateway, key) as client:
        answer = client.get("/whoami")
        return str(answer.json()["id"]) if answer.is_success else code_of(answer)


def test_both_secrets_work_until_the_overlap_ends(gateway: RunningGateway, root: httpx.Client, made: Any) -> None:
    rotated = done(rotate(root, made["id"], 2))
    assert (rotated["id"], rotated["name"], rotated["scope"]) == (made["id"], "rotated", "read")
    assert [holder(gateway, key) for key in (made["key"], rotated["key"])] == [made["id"]] * 2
    (listed,) = [key for key in done(root.get("/admin-keys"))["data"] if key["id"] == made["id"]]
    assert [secret["until"] for secret in listed["ending_secrets"]] == [rotated["ending_secrets"][0]["until"]]
    wait_until_sync(lambda: holder(gateway, made["key"]) == "invalid_admin_key", what="the overlap has ended")
    assert holder(gateway, rotated["key"]) == made["id"]


def test_without_an_overlap_every_other_secret_ends_at_once(
    gateway: RunningGateway, root: httpx.Client, made: Any
) -> None:
    second = done(rotate(root, made["id"], 3600))
    third = done(rotate(root, made["id"], 0))
    assert third["ending_secrets"] == []
    found = [holder(gateway, key) for key in (made["key"], second["key"], third["key"])]
    assert found == ["invalid_admin_key", "invalid_admin_key", made["id"]]


def test_a_repeated_rotation_gives_the_same_secret_and_never_restores_one(
    gateway: RunningGateway, root: httpx.Client, made: Any
) -> None:
    first, again = (done(rotate(root, made["id"], 3600, once=f"r-{made['id']}")) for _ in range(2))
    assert (first["key"], len(again["ending_secrets"])) == (again["key"], 1)
    third = done(rotate(root, made["id"], 0))
    late = done(rotate(root, made["id"], 3600, once=f"r-{made['id']}"))
    assert late["key"] is None
    assert [holder(gateway, key) for key in (first["key"], third["key"])] == ["invalid_admin_key", made["id"]]


def test_so_many_secrets_work_at_once_and_no_more(root: httpx.Client, made: Any) -> None:
    for _ in range(MAX_SECRETS - 1):
        done(rotate(root, made["id"], 3600))
    refused = rotate(root, made["id"], 3600)
    assert (refused.status_code, code_of(refused)) == (409, "too_many_secrets")
    assert 3500 < int(refused.headers["retry-after"]) <= 3600
    assert done(rotate(root, made["id"], 0))["ending_secrets"] == []


def test_an_admin_key_that_is_unknown_or_deleted_is_not_rotated(root: httpx.Client, made: Any) -> None:
    done(root.delete(f"/admin-keys/{made['id']}"))
    for admin_id in (made["id"], "0123456789", "root"):
        assert code_of(rotate(root, admin_id, 0)) == "admin_key_not_found"
