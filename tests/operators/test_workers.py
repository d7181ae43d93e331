"""Several worker processes: a revocation applies on each from the very next request, and a reload reaches all."""

import contextlib
import os
import re
import signal
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.support.admins import code_of, done
from tests.support.program import Program, started
from tests.support.servers import Server
from tests.support.waiting import wait_until_sync

pytestmark = pytest.mark.timeout(180)  # two processes start, on whatever machine this is

ENV = {"GATEWAY_ADMIN_KEY": "admin-key-of-32-characters-at-least", "PROVIDER_KEY": "key"}
CONFIG = """
[server]
port = 0
workers = 2
[store]
url = "{store}"
accept_data_loss = true
data_dir = "{data}"
[admin]
key = "env:GATEWAY_ADMIN_KEY"
[upstreams.one]
base_url = "{upstream}"
api_keys = ["env:PROVIDER_KEY"]
[[routes]]
model = "{model}"
upstreams = ["one"]
[prices."*"]
input = "{price}"
output = "1"
"""


@dataclass
class Served:
    """`gateway serve` with two workers, and the file from which it was started."""

    program: Program
    path: Path
    root: httpx.Client
    url: str
    values: dict[str, str]

    def write(self, **changes: str) -> None:
        self.path.write_text(CONFIG.format(**{**self.values, **changes}), encoding="utf-8")

    def reports(self) -> bool:
        """Whether both workers have reported. Nothing answers while they start."""
        try:
            return len(self.workers()) == 2
        except httpx.TransportError:
            return False

    def workers(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = done(self.root.get("/config"))["workers"]
        return found

    def everywhere(self, check: str, wanted: object) -> None:
        """Waits until both workers report it."""
        wait_until_sync(lambda: [worker[check] for worker in self.workers()] == [wanted] * 2, what=f"{check} {wanted}")

    def send(self, key: str, model: str = "a/model") -> int:
        """One request on a connection of its own, so that any worker may get it; its status."""
        headers = {"authorization": f"Bearer {key}"}
        answer = httpx.post(
            f"{self.url}/v1/responses", json={"model": model, "input": "x"}, headers=headers, timeout=20
        )
        return answer.status_code


@pytest.fixture(scope="module")
def served(store: Server, upstream: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("served")
    path = directory / "gateway.toml"
    values = {"store": store.url, "data": str(directory / "data"), "upstream": upstream, "model": "a/*", "price": "1"}
    path.write_text(CONFIG.format(**values), encoding="utf-8")
    with started("serve", "--config", str(path), cwd=directory, env=ENV) as program:
        url = re.findall(r"Gateway: (http://\S+)/v1", program.wait_for("Gateway: http://"))[-1]
        headers = {"authorization": "Bearer admin-key-of-32-characters-at-least"}
        with httpx.Client(base_url=f"{url}/admin/v1", headers=headers, timeout=20) as root:
            served = Served(program, path, root, url, values)
            wait_until_sync(served.reports, timeout_s=90, what="both workers report")
            yield served


@pytest.fixture
def key(served: Served) -> dict[str, Any]:
    team = done(served.root.post("/teams", json={"name": uuid.uuid4().hex, "credits_usd": "10"}))
    return {
        **done(served.root.post(f"/teams/{team['id']}/keys", json={"name": "k"})),
        "path": f"/teams/{team['id']}/keys",
    }


@pytest.mark.parametrize("status", ["revoked", "disabled"])
def test_a_key_that_is_taken_away_is_refused_by_every_process_from_the_next_request_on(
    served: Served, key: dict[str, Any], status: str
) -> None:
    assert {served.send(key["key"]) for _ in range(8)} == {200}
    done(served.root.patch(f"{key['path']}/{key['id']}", json={"status": status}))
    assert {served.send(key["key"]) for _ in range(12)} == {401}


def test_a_rotation_holds_on_every_process_at_once(served: Served, key: dict[str, Any]) -> None:
    rotated = done(served.root.post(f"{key['path']}/{key['id']}/rotate", json={"overlap_s": 0}))
    assert {served.send(rotated["key"]) for _ in range(8)} == {200}
    assert {served.send(key["key"]) for _ in range(8)} == {401}


def test_a_reload_by_api_reaches_every_worker(served: Served, key: dict[str, Any]) -> None:
    assert served.send(key["key"], "b/model") == 404
    served.write(model="*", price="2")
    reloaded = done(served.root.post("/config/reload"))
    assert (reloaded["changed"], reloaded["needs_restart"]) == (["routes", "prices"], [])
    served.everywhere("generation", reloaded["generation"])
    assert {served.send(key["key"], "b/model") for _ in range(8)} == {200}
    shown = done(served.root.get("/config"))
    assert (shown["prices"]["*"]["input"], shown["routes"][0]["model"]) == ("2", "*")
    assert "admin-key-of-32-characters-at-least" not in str(shown)


def test_an_order_is_obeyed_by_every_worker_when_its_answer_comes(served: Served, key: dict[str, Any]) -> None:
    served.write(model="*")
    done(served.root.post("/config/reload"))
    for _ in range(3):
        taken = done(served.root.post("/upstreams/one/disable"))
        assert (taken["obeyed"], taken["disobedient"]) == (True, [])
        assert {served.send(key["key"]) for _ in range(8)} == {503}
        assert done(served.root.post("/upstreams/one/enable"))["obeyed"]
        assert {served.send(key["key"]) for _ in range(8)} == {200}
    for model in ("d/*", "*"):
        served.write(model=model)
        assert done(served.root.post("/config/reload"))["obeyed"]
        assert {served.send(key["key"]) for _ in range(8)} == ({404} if model == "d/*" else {200})


def test_a_worker_that_does_not_obey_is_named(served: Served, key: dict[str, Any]) -> None:
    victim = served.workers()[0]["pid"]
    os.kill(victim, signal.SIGSTOP)
    try:
        found: list[dict[str, Any]] = []

        def is_told() -> bool:
            """The other worker answers; a connection that the stopped one took gets no answer."""
            with contextlib.suppress(httpx.TransportError):
                where = f"{served.root.base_url}upstreams/one/disable"
                found.append(done(httpx.post(where, headers=served.root.headers, timeout=6)))
            return bool(found)

        wait_until_sync(is_told, what="the other worker answers")
        assert not found[0]["obeyed"]
        assert [one["pid"] for one in found[0]["disobedient"]] == [victim]
    finally:
        os.kill(victim, signal.SIGCONT)

    def is_enabled() -> bool:
        """An order that the stopped worker had in its socket may come after the first of these."""
        obeyed: bool = done(served.root.post("/upstreams/one/enable"))["obeyed"]
        return obeyed and {served.send(key["key"]) for _ in range(8)} == {200}

    wait_until_sync(is_enabled, what="it obeys again")


def test_a_bad_file_changes_nothing_and_says_why(served: Served, key: dict[str, Any]) -> None:
    before = done(served.root.get("/config"))
    served.write(upstream="no url")
    answer = served.root.post("/config/reload")
    assert (answer.status_code, code_of(answer)) == (400, "invalid_config")
    assert "upstreams.one.base_url" in answer.json()["error"]["message"]
    after = done(served.root.get("/config"))
    assert (after["upstreams"], after["generation"]) == (before["upstreams"], before["generation"])
    assert {served.send(key["key"]) for _ in range(4)} == {200}


def test_what_a_reload_cannot_change_is_named(served: Served) -> None:
    served.path.write_text(
        CONFIG.format(**served.values).replace("[store]", "drain_timeout_s = 7\n[store]"), encoding="utf-8"
    )
    assert done(served.root.post("/config/reload"))["needs_restart"] == ["server"]


def test_sighup_reloads_every_worker_without_ending_one(served: Served, key: dict[str, Any]) -> None:
    before = {worker["pid"]: worker["loaded_at"] for worker in served.workers()}
    served.write(model="c/*")
    served.program.process.send_signal(signal.SIGHUP)
    wait_until_sync(
        lambda: all(worker["loaded_at"] != before.get(worker["pid"]) for worker in served.workers()),
        what="both reloaded",
    )
    assert {worker["pid"] for worker in served.workers()} == set(before)
    assert {served.send(key["key"], "c/model") for _ in range(8)} == {200}
    assert {served.send(key["key"], "a/model") for _ in range(8)} == {404}
    served.write(model="*")
    done(served.root.post("/config/reload"))


def test_sighup_with_a_bad_file_is_a_line_in_the_log_and_a_problem_in_the_report(served: Served) -> None:
    served.write(price="much")
    served.program.process.send_signal(signal.SIGHUP)
    wait_until_sync(lambda: all(worker["problem"] for worker in served.workers()), what="both say why")
    assert "config_not_reloaded" in served.program.err
    served.write()
    done(served.root.post("/config/reload"))
    wait_until_sync(lambda: not any(worker["problem"] for worker in served.workers()), what="all is well")


def test_a_stream_that_runs_during_a_reload_ends_on_the_old_configuration(
    served: Served, key: dict[str, Any], upstream: str
) -> None:
    served.write(model="*")
    served.everywhere("generation", done(served.root.post("/config/reload"))["generation"])
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key=key["key"], max_retries=0) as client:
        stream = client.responses.create(model="sim/slow-40+tokens-80", input="x", stream=True)
        with contextlib.closing(stream):
            events = iter(stream)
            assert next(events).type == "response.created"
            # The same upstream under another name has other settings, so it is rebuilt and the old one is closed.
            served.write(model="*", upstream=upstream.replace("127.0.0.1", "localhost"))
            served.everywhere("generation", done(served.root.post("/config/reload"))["generation"])
            kinds = [event.type for event in events]
    assert kinds[-1] == "response.completed"
    assert served.send(key["key"]) == 200
