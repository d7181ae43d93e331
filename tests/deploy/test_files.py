"""Compose file, image and unit, as far as they can be checked without an engine; compose_scenario.py runs them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.deploy.stack import ROOT

COMPOSE: Final = ROOT / "docker-compose.yml"
VARIABLE: Final = re.compile(r"(?<!\$)\$\{(\w+)(?::-([^}]*))?\}")
UNIT: Final = ROOT / "deploy" / "systemd" / "gateway.service"


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]
    return found


def test_the_example_environment_has_every_variable_with_its_default() -> None:
    used = dict(VARIABLE.findall(COMPOSE.read_text(encoding="utf-8")))
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    told = dict(line.lstrip("#").split("   #")[0].split("  ")[0].strip().split("=", 1) for line in lines if "=" in line)
    assert told == used


def test_every_service_is_hardened_bounded_and_restarted() -> None:
    for name, service in services().items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["restart"] == "unless-stopped"
        assert service["mem_limit"]
        assert service["pids_limit"]
        assert service["logging"]["options"]["max-size"]
        assert service.get("privileged") is None
    assert {name: service["cap_add"] for name, service in services().items() if "cap_add" in service} == {
        "caddy": ["NET_BIND_SERVICE"]
    }


def test_operators_have_a_port_of_their_own_which_is_published_on_loopback_alone() -> None:
    admin = tomllib.loads((ROOT / "deploy" / "compose" / "gateway.toml").read_text(encoding="utf-8"))["admin"]
    published = services()["gateway"]["ports"]
    assert published == [
        "${GATEWAY_BIND:-127.0.0.1}:${GATEWAY_PORT:-8080}:8080",
        f"${{ADMIN_BIND:-127.0.0.1}}:${{ADMIN_PORT:-{admin['port']}}}:{admin['port']}",
    ]
    assert services()["gateway"]["environment"]["GATEWAY_URL"] == f"http://127.0.0.1:{admin['port']}"
    assert f":{admin['port']}" not in services()["caddy"]["environment"]["GATEWAYS"]


DIGEST: Final = "sha256:" + "0123456789abcdef" * 4


def digests(directory: Path, docker: str) -> subprocess.CompletedProcess[str]:
    """What deploy/digests.sh prints, where this is the program `docker`."""
    program = directory / "docker"
    program.write_text(f"#!/bin/sh\n{docker}\n", encoding="utf-8")
    program.chmod(0o755)
    return subprocess.run(
        [ROOT / "deploy" / "digests.sh"],
        env={"PATH": f"{directory}:/usr/bin:/bin"},
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_image_is_a_variable_and_is_pinned_by_its_digest(tmp_path: Path) -> None:
    images = [VARIABLE.fullmatch(service["image"]) for service in services().values()]
    assert None not in images
    named = {image[1]: image[2] for image in images if image} | {"BASE_IMAGE": "python:3.13-slim"}
    del named["GATEWAY_IMAGE"]
    asked = f'[ "$1 $2 $3 $5 $6" = "buildx imagetools inspect --format {{{{.Manifest.Digest}}}}" ] && echo {DIGEST}'
    done = digests(tmp_path, asked)
    assert (done.returncode, done.stderr) == (0, "")
    lines = dict(line.split("=") for line in done.stdout.splitlines())
    assert lines == {name: f"{image}@{DIGEST}" for name, image in named.items()}


@pytest.mark.parametrize("docker", ["exit 1", "echo", "echo '<no value>'", f'[ "$4" = caddy:2 ] || echo {DIGEST}'])
def test_without_all_digests_there_is_none(tmp_path: Path, docker: str) -> None:
    done = digests(tmp_path, docker)
    assert (done.returncode, done.stdout) == (1, "")


def test_compose_takes_images_with_digests(tmp_path: Path) -> None:
    command = shutil.which("docker-compose")
    if command is None:
        pytest.skip("docker-compose is not installed")
    lines = digests(tmp_path, f"echo {DIGEST}").stdout
    (tmp_path / "env").write_text(lines, encoding="utf-8")
    shown = subprocess.run(
        [command, "--env-file", tmp_path / "env", "--file", COMPOSE, "config"],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/usr/bin:/bin"},
    ).stdout
    found = yaml.safe_load(shown)["services"]
    pinned = {name: service["image"] for name, service in found.items() if "GATEWAY_IMAGE" not in str(service)}
    assert {name for name, image in pinned.items() if DIGEST not in image} == {
        name for name, service in services().items() if "GATEWAY_IMAGE" in service["image"]
    }
    assert found["gateway"]["build"]["args"]["BASE_IMAGE"].endswith(DIGEST)


def test_the_gateways_trust_the_proxy_alone() -> None:
    """Its address stays, and nothing else of the network is given it: whoever has it says who a client is."""
    compose = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
    defaults = dict(VARIABLE.findall(COMPOSE.read_text(encoding="utf-8")))

    def filled(text: str) -> str:
        return VARIABLE.sub(lambda found: defaults[found[1]], text)

    address = ip_address(filled(compose["services"]["caddy"]["networks"]["front"]["ipv4_address"]))
    [front] = compose["networks"]["front"]["ipam"]["config"]
    subnet, given = ip_network(filled(front["subnet"])), ip_network(filled(front["ip_range"]))
    assert address in subnet
    assert address not in given
    assert set(given.hosts()) <= set(subnet.hosts())
    for name in ("gateway", "gateway-2", "gateway-3"):
        trusted = json.loads(filled(compose["services"][name]["environment"]["GATEWAY_SERVER__TRUSTED_PROXIES"]))
        assert trusted == [str(address)]


def test_the_store_publishes_nothing_and_is_on_a_network_that_leads_nowhere() -> None:
    assert "ports" not in services()["valkey"]
    assert services()["valkey"]["networks"] == ["store"]
    networks = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["networks"]
    assert networks["store"] == {"internal": True}


def test_the_store_forgets_nothing() -> None:
    lines = (ROOT / "deploy" / "compose" / "valkey.conf").read_text(encoding="utf-8").splitlines()
    assert {"appendonly yes", "appendfsync everysec", "maxmemory-policy noeviction"} <= set(lines)


def test_no_secret_has_a_place_in_the_environment_file_or_the_image() -> None:
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert {"/secrets/", ".env"} <= set(ignored)
    allowed = [line for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] == "!"]
    locks = ["!requirements-otel.lock", "!requirements-parquet.lock", "!requirements.lock"]
    assert sorted(allowed) == ["!gateway", "!gateway.example.toml", "!pyproject.toml", *locks, "!wheels"]


def test_the_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    program = shutil.which("true")
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text(encoding="utf-8").replace("/opt/gateway/bin/gateway", str(program)))
    checked = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert [line for line in checked.stderr.splitlines() if "gateway.service" in line] == []
    assert checked.returncode == 0, checked.stderr


def test_secrets_are_made_once_and_stay(tmp_path: Path) -> None:
    def run(key: str) -> dict[str, str]:
        subprocess.run(
            [ROOT / "deploy" / "secrets.sh", tmp_path / "secrets"],
            env={"PATH": "/usr/bin:/bin", "SIRAYA_API_KEY": key},
            check=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
        )
        return {path.name: path.read_text().strip() for path in (tmp_path / "secrets").iterdir()}

    made = run("first")
    assert made["upstream_api_key"] == "first"
    assert len(made["store_password"]) == len(made["admin_key"]) == 48
    assert made["store_password"] != made["admin_key"]
    assert run("second") == made
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700


def test_secrets_without_a_provider_key_are_refused(tmp_path: Path) -> None:
    refused = subprocess.run(
        [ROOT / "deploy" / "secrets.sh", tmp_path / "secrets"],
        env={"PATH": "/usr/bin:/bin"},
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert refused.returncode == 1
    assert "SIRAYA_API_KEY is not set" in refused.stderr


@pytest.mark.parametrize(
    "key", ["your-key", "YOUR_API_KEY", "sk-...", "<key>", "changeme", "env:SIRAYA_API_KEY", "a b"]
)
def test_a_placeholder_is_no_provider_key(tmp_path: Path, key: str) -> None:
    refused = secrets_made(tmp_path, key)
    assert refused.returncode == 1
    assert "nothing was stored" in refused.stderr
    assert not (tmp_path / "secrets").exists()


def test_a_placeholder_that_was_stored_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "upstream_api_key").write_text("your-key\n")
    assert secrets_made(tmp_path, "sk-Real0123456789").returncode == 0
    assert (tmp_path / "secrets" / "upstream_api_key").read_text() == "sk-Real0123456789\n"


def test_secrets_that_are_kept_are_named(tmp_path: Path) -> None:
    secrets_made(tmp_path, "sk-Real0123456789")
    again = secrets_made(tmp_path, "sk-Another0123456789")
    kept = {line.split()[1].rstrip(";").rpartition("/")[2] for line in again.stdout.splitlines() if "kept" in line}
    assert kept == {"store_password", "admin_key", "grafana_password", "upstream_api_key"}
    assert "SIRAYA_API_KEY is another key" in again.stdout
    assert "sk-Another" not in again.stdout


def secrets_made(tmp_path: Path, key: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / "deploy" / "secrets.sh", tmp_path / "secrets"],
        env={"PATH": "/usr/bin:/bin", "SIRAYA_API_KEY": key},
        check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
