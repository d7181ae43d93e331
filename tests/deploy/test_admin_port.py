"""The compose stack's configuration, served for real: operators' paths are on their own port and nowhere else."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from typing import Final

import httpx
import pytest

from tests.deploy.operators import ADMIN_KEY, PATHS, spellings, told
from tests.deploy.stack import ROOT
from tests.support.ports import free_port
from tests.support.program import started
from tests.support.servers import valkey_server
from tests.support.waiting import wait_until_sync

CONFIG: Final = ROOT / "deploy" / "compose" / "gateway.toml"


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The address for clients and the one for operators, of a gateway with the shipped file.

    As in a container, GATEWAY_URL is set; only secrets, ports and the store's address are others.
    """
    directory = tmp_path_factory.mktemp("admin-port")
    text = CONFIG.read_text(encoding="utf-8")
    for name, value in {"admin_key": ADMIN_KEY, "upstream_api_key": "key"}.items():
        (directory / name).write_text(value)
        text = text.replace(f"/run/secrets/{name}", str(directory / name))
    text = text.replace('password = "file:/run/secrets/store_password"\n', "")
    port, admin_port = free_port(), free_port()
    told_port = tomllib.loads(text)["admin"]["port"]
    text = text.replace(f"port = {told_port}", f"port = {admin_port}").replace('host = "0.0.0.0"', 'host = "127.0.0.1"')
    with valkey_server() as store:
        (directory / "gateway.toml").write_text(text.replace("redis://valkey:6379", store.url))
        env = {
            "GATEWAY_URL": f"http://127.0.0.1:{admin_port}",
            "GATEWAY_STORE__DATA_DIR": str(directory),
            "GATEWAY_STORE__ACCEPT_DATA_LOSS": "true",
            "GATEWAY_SERVER__SHUTDOWN_DELAY_S": "0",
        }
        with started("serve", "--config", "gateway.toml", "--port", str(port), cwd=directory, env=env) as program:
            url = f"http://127.0.0.1:{port}"
            wait_until_sync(lambda: program.process.poll() is not None or _is_ready(url), what="the gateway is ready")
            assert program.process.poll() is None, f"it did not start: {program.err}"
            yield url, f"http://127.0.0.1:{admin_port}"


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", trust_env=False).is_success
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("path", PATHS)
def test_the_port_for_clients_has_no_operators_path_in_any_spelling(ports: tuple[str, str], path: str) -> None:
    answers = {target: told(ports[0], target) for target in spellings(path)}
    assert {target: answer for target, answer in answers.items() if not answer.is_refused} == {}


def test_the_port_for_operators_has_them_all_and_nothing_for_clients(ports: tuple[str, str]) -> None:
    assert b"gateway_build_info" in told(ports[1], "/metrics").raw
    assert b"<form" in told(ports[1], "/dashboard/login").raw
    assert told(ports[1], "/admin/v1/teams").status == 200
    assert told(ports[1], "/v1/models").status == 404


def test_the_root_of_the_operators_port_leads_to_the_dashboard_and_the_clients_one_nowhere(
    ports: tuple[str, str],
) -> None:
    browser = {"accept": "text/html"}
    answers = [httpx.get(url + "/", headers=browser, trust_env=False) for url in ports]
    assert [answer.status_code for answer in answers] == [200, 303]
    assert "dashboard" not in answers[0].text
