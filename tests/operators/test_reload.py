"""A reload inside one worker: what is the same stays as it is, what is gone is closed behind its last request."""

from pathlib import Path
from typing import Any

from gateway.config.errors import SettingsError
from gateway.config.settings import Settings
from gateway.worker.control_loop import RELOADED
from tests.support.admins import admin_client, done
from tests.support.gateway import gateway_settings, running_gateway
from tests.support.servers import Server, valkey_server
from tests.support.waiting import wait_until_sync


class File:
    """Stands for the configuration file: what it holds now. State that changes: `sections`."""

    def __init__(self, store: Server, upstream: str, directory: Path) -> None:
        self.sections: dict[str, Any] = {}
        self._where = (store.url, upstream, directory)

    def load(self) -> Settings:
        return gateway_settings(*self._where, **self.sections)


def test_an_unchanged_upstream_keeps_its_connections_and_its_health(
    store: Server, upstream: str, tmp_path: Path
) -> None:
    file = File(store, upstream, tmp_path)
    with running_gateway(store.url, upstream, tmp_path, load=file.load) as gateway, admin_client(gateway) as root:
        before = gateway.services.handler.snapshot.upstreams["simulator"]
        file.sections = {"prices": {"*": {"input": "7", "output": "7"}}}
        assert done(root.post("/config/reload"))["changed"] == ["prices"]
        assert gateway.services.handler.snapshot.upstreams["simulator"] is before


def test_a_changed_upstream_is_closed_when_its_last_request_has_ended(
    store: Server, upstream: str, tmp_path: Path
) -> None:
    file = File(store, upstream, tmp_path)
    with running_gateway(store.url, upstream, tmp_path, load=file.load) as gateway, admin_client(gateway) as root:
        old = gateway.services.handler.snapshot.upstreams["simulator"]
        with gateway.sdk(gateway.new_key()) as client:
            stream = client.responses.create(model="sim/slow-40+tokens-60", input="x", stream=True)
            kinds = [next(iter(stream)).type]
            file.sections = {"upstream": {"chunk_timeout_s": 77}}
            done(root.post("/config/reload"))
            assert gateway.services.handler.snapshot.upstreams["simulator"] is not old
            assert old.transport.open_connections == 1
            kinds += [event.type for event in stream]
        assert kinds[-1] == "response.completed"
        wait_until_sync(lambda: old.transport.open_connections == 0, what="the old connections are closed")


def test_an_upstream_that_was_taken_out_stays_out_when_it_changes(store: Server, upstream: str, tmp_path: Path) -> None:
    file = File(store, upstream, tmp_path)
    with running_gateway(store.url, upstream, tmp_path, load=file.load) as gateway, admin_client(gateway) as root:
        done(root.post("/upstreams/simulator/disable"))
        file.sections = {"upstream": {"chunk_timeout_s": 78}}
        done(root.post("/config/reload"))
        assert not gateway.services.handler.snapshot.upstreams["simulator"].enabled
        done(root.post("/upstreams/simulator/enable"))
        assert gateway.services.handler.snapshot.upstreams["simulator"].enabled


def test_a_file_with_a_part_that_cannot_be_built_changes_nothing(store: Server, upstream: str, tmp_path: Path) -> None:
    file = File(store, upstream, tmp_path)
    with running_gateway(store.url, upstream, tmp_path, load=file.load) as gateway, admin_client(gateway) as root:
        before = gateway.services.handler.snapshot
        file.sections = {"upstream": {"ca_file": str(tmp_path / "nothing.pem"), "base_url": "https://127.0.0.1:1/v1"}}
        answer = root.post("/config/reload")
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_config")
        assert gateway.services.handler.snapshot is before
        assert done(root.get("/config"))["problem"] == answer.json()["error"]["message"]


def test_what_a_reload_takes_are_sections_of_the_settings() -> None:
    assert set(RELOADED) < set(Settings.model_fields)


def test_a_worker_whose_reload_fails_at_its_start_obeys_the_other_orders_at_once(upstream: str, tmp_path: Path) -> None:
    def broken() -> Settings:
        raise SettingsError(["gateway.toml: is not TOML"])

    with valkey_server() as own:
        with running_gateway(own.url, upstream, tmp_path / "one") as gateway:
            state = gateway.services.cluster_state
            gateway.run(state.disable_upstream("simulator", "admin", 1))
            gateway.run(state.next_generation())
        with running_gateway(own.url, upstream, tmp_path / "two", load=broken) as gateway:
            assert not gateway.services.handler.snapshot.upstreams["simulator"].enabled
            assert "is not TOML" in gateway.services.control_loop.problem
