"""Checks that cost something are not asked of what costs nothing, and a response is charged once, however it ended.

| the team                                    | calls that cost nothing | a response that costs something |
|---------------------------------------------|-------------------------|---------------------------------|
| is overdrawn                                | pass                    | 402                             |
| or its key, has spent its budget            | pass                    | 429                             |
| asks for a model whose price was taken out  | pass                    | 404                             |
| asks for a model whose route was taken out  | by id: pass             | 404                             |

| a background response that ended | is settled at                                     |
|----------------------------------|---------------------------------------------------|
| with a usage                     | that                                              |
| without one                      | its input and what it put out, not its worst case |
| without one, failed, with `charge_failed_input = false`, without output | nothing    |

However often it is asked for, it counts as one request with one outcome.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.billing.money import parse_usd
from gateway.config.settings import Settings
from gateway.ledger.verification import verify
from gateway.proxy import late_usage
from tests.support.admins import admin_client, done
from tests.support.answering_provider import Answer, AnsweringProvider, Request, response
from tests.support.counters import set_counters
from tests.support.gateway import NewKey, RunningGateway, gateway_settings, running_gateway
from tests.support.servers import Server
from tests.support.waiting import wait_until_sync

INPUT, OUTPUT = 1_000, 10_000  # nano-USD per token
USED = {"input_tokens": 30, "output_tokens": 5, "total_tokens": 35}
PRICES = {"*": {"input": "1", "output": "10"}, "free/*": {"input": "0", "output": "0"}}
HUGE = 10**15


@pytest.fixture(autouse=True)
def asks_no_earlier(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateway's own questions after what a response used wait until these tests are over."""
    monkeypatch.setattr(late_usage, "_DELAYS_S", (600.0,))


@dataclass
class Provider:
    """What the provider says of the one response that it knows. Mutable."""

    status: str = "completed"
    usage: dict[str, int] | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    streams: bool = False

    def answer(self, request: Request) -> Answer:
        if request.path.endswith("/input_tokens"):
            return Answer({"object": "response.input_tokens", "input_tokens": 3})
        if request.path.endswith("/input_items"):
            return Answer({"object": "list", "data": []})
        if request.method == "DELETE":
            return Answer({"id": "resp_1", "object": "response", "deleted": True})
        told = response(self.usage, status=self.status, background=True, **self.fields)
        if self.streams:
            return Answer(events=[{"type": f"response.{self.status}", "response": told}])
        return Answer(told)


@pytest.fixture
def provider() -> Provider:
    return Provider()


class File:
    """Stands for the configuration file. Mutable: `sections`."""

    def __init__(self, store: Server, upstream: str, directory: Path) -> None:
        self.sections: dict[str, Any] = {"prices": PRICES}
        self._where = (store.url, upstream, directory)

    def load(self) -> Settings:
        return gateway_settings(*self._where, **self.sections)


@pytest.fixture
def file(store: Server, provider: Provider, tmp_path: Path) -> Iterator[File]:
    with AnsweringProvider.serving(provider.answer) as serving:
        yield File(store, serving.url, tmp_path)


@pytest.fixture
def gateway(store: Server, file: File, tmp_path: Path) -> Iterator[RunningGateway]:
    upstream = file.load().upstreams["simulator"].base_url
    with running_gateway(store.url, upstream, tmp_path, load=file.load, **file.sections) as running:
        yield running


@pytest.fixture
def key(gateway: RunningGateway) -> NewKey:
    return gateway.new_key()


@pytest.fixture
def http(gateway: RunningGateway, key: NewKey) -> Iterator[httpx.Client]:
    with gateway.http(key) as client:
        yield client


def begin(http: httpx.Client, provider: Provider, **fields: Any) -> None:
    """Makes the response, in the background."""
    provider.status = "in_progress"
    body = {"model": "some/model", "input": "hello", "background": True, "max_output_tokens": 500, **fields}
    assert http.post("/v1/responses", json=body).status_code == 200
    provider.status = "completed"


def spent(gateway: RunningGateway, key: NewKey) -> int:
    """What was charged, once nothing is held, after verifying the books."""
    balance = gateway.settled_balance(key)
    assert gateway.run(verify(gateway.services.store, key.team.id)).differences == ()
    return balance.spent


CALLS = {
    "read": ("GET", "/v1/responses/resp_1", None),
    "cancel": ("POST", "/v1/responses/resp_1/cancel", None),
    "input items": ("GET", "/v1/responses/resp_1/input_items", None),
    "delete": ("DELETE", "/v1/responses/resp_1", None),
    "count": ("POST", "/v1/responses/input_tokens", {"model": "some/model", "input": "hello"}),
    "a free model": ("POST", "/v1/responses", {"model": "free/model", "input": "hello"}),
}
PRICED = {"model": "some/model", "input": "hello"}


def overdraw(gateway: RunningGateway, key: NewKey, _store: Server) -> None:
    """More was used than there was, as by an answer that exceeds its hold."""
    less = -gateway.balance(key).available - 1_000_000
    gateway.run(gateway.services.accounts.move_credits(key.team, "adjust", less))


def spend_budgets(gateway: RunningGateway, key: NewKey, store: Server) -> None:
    with admin_client(gateway) as root:
        done(root.patch(f"/teams/{key.team.id}/keys/{key.id}", json={"limits": {"budget_usd_day": "1"}}))
        done(root.patch(f"/teams/{key.team.id}", json={"limits": {"budget_usd_total": "1"}}))
    for scope in ("key", "team"):
        set_counters(store, key.team.id, key.id, scope, usd_day=HUGE, total_usd=HUGE)


def spend_tokens(gateway: RunningGateway, key: NewKey, store: Server) -> None:
    with admin_client(gateway) as root:
        done(root.patch(f"/teams/{key.team.id}", json={"limits": {"budget_tokens_day": 2, "tpm": 2}}))
    set_counters(store, key.team.id, key.id, "team", tokens_day=HUGE, tk=HUGE)


STATES = {"overdrawn": (overdraw, 402), "budgets spent": (spend_budgets, 402), "tokens spent": (spend_tokens, 429)}


@pytest.mark.parametrize("state", STATES)
def test_what_costs_nothing_passes_where_nothing_is_left(
    gateway: RunningGateway, store: Server, key: NewKey, http: httpx.Client, provider: Provider, state: str
) -> None:
    begin(http, provider)
    happen, refused = STATES[state]
    happen(gateway, key, store)
    assert http.post("/v1/responses", json=PRICED).status_code == refused
    for name, (method, path, body) in CALLS.items():
        if name != "a free model" or state != "tokens spent":  # its tokens are free, and tokens all the same
            assert http.request(method, path, json=body).status_code == 200, name


def test_the_refund_that_a_read_brings_arrives_though_nothing_is_left(
    gateway: RunningGateway, store: Server, key: NewKey, http: httpx.Client, provider: Provider
) -> None:
    begin(http, provider)
    worst = spent(gateway, key)
    assert worst >= 500 * OUTPUT
    overdraw(gateway, key, store)
    before = gateway.balance(key).available
    provider.usage = USED
    assert http.get("/v1/responses/resp_1").status_code == 200
    assert spent(gateway, key) == 30 * INPUT + 5 * OUTPUT
    assert gateway.balance(key).available == before + worst - (30 * INPUT + 5 * OUTPUT)


@pytest.mark.parametrize("gone", ["the price", "the route"])
def test_a_response_outlives_the_configuration_of_its_model(
    gateway: RunningGateway, key: NewKey, http: httpx.Client, provider: Provider, file: File, gone: str
) -> None:
    begin(http, provider)
    worst = spent(gateway, key)
    file.sections = {"prices": {"*": None}} if gone == "the price" else {"route": {"model": "other/*"}}
    with admin_client(gateway) as root:
        done(root.post("/config/reload"))
    provider.usage = USED
    assert http.post("/v1/responses", json=PRICED).status_code == 404
    names = ["read", "cancel", "input items", *(["count"] if gone == "the price" else []), "delete"]
    for name in names:
        method, path, body = CALLS[name]
        assert http.request(method, path, json=body).status_code == 200, name
    # What is not priced cannot be settled by its usage; as soon as it is, a read does so.
    assert spent(gateway, key) == (worst if gone == "the price" else 30 * INPUT + 5 * OUTPUT)
    file.sections = {"prices": PRICES}
    with admin_client(gateway) as root:
        done(root.post("/config/reload"))
    http.get("/v1/responses/resp_1")
    assert spent(gateway, key) == 30 * INPUT + 5 * OUTPUT


SAID = {"output": [{"type": "message", "content": [{"type": "output_text", "text": "four" * 8}]}]}


@pytest.mark.parametrize(
    ("status", "fields", "output_tokens"),
    [
        ("failed", {"error": {"code": "server_error", "message": "Failed."}}, 0),
        ("cancelled", {}, 0),
        ("incomplete", SAID, 8),
        ("completed", SAID, 8),
    ],
)
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
def test_a_background_response_that_ended_without_a_usage_is_settled_at_what_it_used(
    gateway: RunningGateway,
    key: NewKey,
    http: httpx.Client,
    provider: Provider,
    status: str,
    fields: dict[str, Any],
    output_tokens: int,
    streamed: bool,
) -> None:
    begin(http, provider)
    worst = spent(gateway, key)
    provider.status = "in_progress"
    http.get("/v1/responses/resp_1")
    assert spent(gateway, key) == worst, "as long as it runs"
    provider.status, provider.fields, provider.streams = status, fields, streamed
    assert http.get(f"/v1/responses/resp_1?stream={str(streamed).lower()}").status_code == 200
    settled = spent(gateway, key)
    assert 0 < settled - output_tokens * OUTPUT < 100 * INPUT, "its input and what it put out"
    for _ in range(3):
        http.get("/v1/responses/resp_1")
    assert spent(gateway, key) == settled


def test_a_background_response_that_failed_before_any_output_costs_nothing_where_that_is_wanted(
    gateway: RunningGateway, key: NewKey, http: httpx.Client, provider: Provider, file: File
) -> None:
    begin(http, provider)
    assert spent(gateway, key) > 0
    file.sections = {"prices": PRICES, "limits": {"charge_failed_input": False}}
    with admin_client(gateway) as root:
        done(root.post("/config/reload"))
    provider.status = "failed"
    http.get("/v1/responses/resp_1")
    assert spent(gateway, key) == 0
    provider.usage = USED
    http.get("/v1/responses/resp_1")
    assert spent(gateway, key) == 0, "it was settled"


def test_a_response_is_one_request_with_one_outcome_however_often_it_is_asked_for(
    gateway: RunningGateway, key: NewKey, http: httpx.Client, provider: Provider
) -> None:
    begin(http, provider)
    for _ in range(3):
        provider.status = "in_progress"
        http.get("/v1/responses/resp_1")
    provider.status, provider.usage = "completed", USED
    for _ in range(3):
        http.get("/v1/responses/resp_1")
    http.post("/v1/responses/resp_1/cancel")
    spent(gateway, key)
    http.post("/v1/responses", json={"model": "other/model", "input": "hello"})
    with admin_client(gateway) as root:

        def usage() -> dict[str, Any]:
            return done(root.get("/usage", params={"team": key.team.id, "by": "model"}))

        wait_until_sync(lambda: usage()["total"]["outcomes"].get("completed") == 2, what="outcomes are written")
        found = {group["model"]: group for group in usage()["groups"]}
    assert (found["some/model"]["requests"], found["some/model"]["outcomes"]) == (1, {"completed": 1})
    assert parse_usd(found["some/model"]["cost_usd"]) == 30 * INPUT + 5 * OUTPUT
