"""A team's lead manages its keys within what operators set: API, store, and keys that older versions wrote."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.accounts.entities import Changes
from gateway.errors import GatewayError
from gateway.store.keyspace import TeamKeys
from tests.support.admins import admin_client, code_of, done, new_admin, new_team
from tests.support.gateway import RunningGateway
from tests.support.ledgers import open_ledger
from tests.support.servers import Server

LATER, SOONER = "2099-01-01T00:00:00Z", "2098-01-01T00:00:00Z"
HELD = {
    "status": "disabled",
    "expires_at": LATER,
    "models": ["sim/*"],
    "operations": ["responses", "images.*"],
    "limits": {"rpm": 10, "budget_usd_day": "5"},
    "cut_at_cap": True,
}
LIFTING: dict[str, dict[str, Any]] = {
    "status": {"status": "active"},
    "later expiry": {"expires_at": "2099-01-02T00:00:00Z"},
    "no expiry": {"expires_at": None},
    "more models": {"models": ["sim/*", "other/*"]},
    "all models": {"models": []},
    "more operations": {"operations": ["responses", "responses.delete"]},
    "all operations": {"operations": []},
    "a higher limit": {"limits": {"rpm": 11}},
    "no limit": {"limits": {"rpm": None}},
    "a higher budget": {"limits": {"budget_usd_day": "5.01"}},
    "among what is permitted": {"limits": {"rpm": 5, "budget_usd_day": None}},
    "cut_at_cap": {"cut_at_cap": False},
}
TIGHTENING: dict[str, dict[str, Any]] = {
    "an earlier expiry": {"expires_at": SOONER},
    "fewer models": {"models": ["sim/echo"]},
    "fewer operations": {"operations": ["images.edits"]},
    "a lower limit": {"limits": {"rpm": 9}},
    "a limit of its own": {"limits": {"tpm": 5}},
    "the same": {"limits": {"rpm": 10}, "cut_at_cap": True, "models": ["sim/*"]},
    "a label": {"name": "another"},
}


@dataclass
class Leads:
    """A team with its lead, and the operator."""

    team: dict[str, Any]
    operator: httpx.Client
    lead: httpx.Client

    @property
    def keys(self) -> str:
        return f"/teams/{self.team['id']}/keys"

    def key(self, by: httpx.Client, **fields: Any) -> str:
        return f"{self.keys}/{done(by.post(self.keys, json={'name': 'k', **fields}))['id']}"


@pytest.fixture
def leads(gateway: RunningGateway) -> Iterator[Leads]:
    with admin_client(gateway) as operator:
        team = new_team(operator)
        with admin_client(gateway, new_admin(operator, "team", team["name"])) as lead:
            yield Leads(team, operator, lead)


@pytest.mark.parametrize("change", LIFTING.values(), ids=LIFTING)
def test_a_lead_cannot_lift_what_an_operator_set(leads: Leads, change: dict[str, Any]) -> None:
    key = leads.key(leads.operator)
    before = done(leads.operator.patch(key, json=HELD))
    answer = leads.lead.patch(key, json=change)
    assert code_of(answer) == "not_allowed"
    assert done(leads.operator.get(key)) == before
    done(leads.operator.patch(key, json=change))


@pytest.mark.parametrize("change", TIGHTENING.values(), ids=TIGHTENING)
def test_a_lead_may_tighten_it_and_go_back(leads: Leads, change: dict[str, Any]) -> None:
    key = leads.key(leads.operator)
    done(leads.operator.patch(key, json=HELD))
    done(leads.lead.patch(key, json=change))
    back = {name: value for name, value in HELD.items() if name != "status"}
    changed = done(leads.lead.patch(key, json=back))
    assert changed["set_by_operator"] == [
        "cut_at_cap",
        "expires_at",
        "limits.budget_usd_day",
        "limits.rpm",
        "models",
        "operations",
        "status",
    ]


def test_what_a_lead_set_a_lead_lifts(leads: Leads) -> None:
    key = leads.key(leads.lead, limits={"rpm": 5}, models=["sim/*"], expires_at=LATER)
    done(leads.lead.patch(key, json={"status": "disabled"}))
    lifted: dict[str, Any] = {"status": "active", "limits": {"rpm": None}, "models": [], "expires_at": None}
    changed = done(leads.lead.patch(key, json=lifted))
    assert (changed["status"], changed["limits"], changed["models"], changed["expires_at"]) == ("active", {}, [], None)
    assert changed["set_by_operator"] == []


def test_what_an_operator_created_with_a_limit_keeps_it_until_it_is_released(leads: Leads) -> None:
    key = leads.key(leads.operator, limits={"rpm": 5})
    assert code_of(leads.lead.patch(key, json={"limits": {"rpm": None}})) == "not_allowed"
    assert code_of(leads.lead.patch(key, json={"release": ["limits.rpm"]})) == "not_allowed"
    assert code_of(leads.operator.patch(key, json={"release": ["rpm"]})) == "invalid_field"
    assert done(leads.operator.patch(key, json={"release": ["limits.rpm"]}))["limits"]["rpm"]["limit"] == 5
    assert done(leads.lead.patch(key, json={"limits": {"rpm": None}}))["limits"] == {}


def test_in_a_disabled_team_a_lead_creates_no_key(leads: Leads) -> None:
    done(leads.operator.patch(f"/teams/{leads.team['id']}", json={"status": "disabled"}))
    assert code_of(leads.lead.post(leads.keys, json={"name": "k"})) == "not_allowed"
    done(leads.operator.post(leads.keys, json={"name": "k"}))
    done(leads.operator.patch(f"/teams/{leads.team['id']}", json={"status": "active"}))
    done(leads.lead.post(leads.keys, json={"name": "k"}))


def test_a_key_of_an_older_version_is_restricted_by_an_operator(leads: Leads, store: Server) -> None:
    path = leads.key(leads.operator, limits={"rpm": 5, "tpm": 6})
    name = TeamKeys(leads.team["id"]).key(path.rpartition("/")[2])
    store.run("HDEL", name, "o:known", "o:rpm", "o:tpm")
    assert code_of(leads.lead.patch(path, json={"limits": {"rpm": 6}})) == "not_allowed"
    assert done(leads.operator.get(path))["set_by_operator"] == ["limits.rpm", "limits.tpm"]
    done(leads.lead.patch(path, json={"limits": {"rpm": 4}}))
    assert code_of(leads.lead.patch(path, json={"limits": {"rpm": 6}})) == "not_allowed"
    assert done(leads.operator.patch(path, json={"limits": {"tpm": None}}))["set_by_operator"] == ["limits.rpm"]


async def test_a_lead_who_read_the_key_before_the_operator_lifts_nothing(store: Server, tmp_path: Path) -> None:
    """Between a lead's reading and its change, the operator has restricted the key: it is decided anew."""
    async with open_ledger(store.url, tmp_path) as parts:
        accounts = parts.accounts
        team = await accounts.team((await parts.new_key()).team_id)
        read, _ = await accounts.create_key(team, Changes(name="k", limits={"rpm": 5}), by_operator=False)
        await accounts.update_key(team, read, Changes(limits={"rpm": 5}))
        with pytest.raises(GatewayError) as refused:
            await accounts.update_key(team, read, Changes(limits={"rpm": 100}), by_operator=False)
        assert refused.value.code == "not_allowed"
        assert (await accounts.key(team, read.id)).limits == {"rpm": 5}


def test_a_lead_who_is_quicker_than_the_operator_lifts_nothing(leads: Leads) -> None:
    for _ in range(10):
        key = leads.key(leads.lead, limits={"rpm": 5})
        with ThreadPoolExecutor(4) as pool:
            lift: Callable[[], httpx.Response] = partial(leads.lead.patch, key, json={"limits": {"rpm": 100}})
            lifted = [pool.submit(lift) for _ in range(3)]
            done(leads.operator.patch(key, json={"limits": {"rpm": 5}}))
            assert {answer.result().status_code for answer in lifted} <= {200, 403}
        assert done(leads.operator.get(key))["limits"]["rpm"]["limit"] == 5
