"""Each file that operators use as an example is run, or validated against a schema, by a test that is named here."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path
from types import MappingProxyType
from typing import Final

import pytest

from tests.deploy.stack import ROOT
from tests.support.servers import binaries, valkey_server

# file -> the test that covers it: file::test, below tests/. The compose scenario runs where a Docker Engine answers.
_SCENARIO: Final = "deploy/compose_scenario.py"
_MANIFEST: Final = "deploy/test_manifests.py::test_every_manifest_keeps_kubernetes_schema"
_KUSTOMIZE: Final = "deploy/test_manifests.py::test_kustomize_builds_the_example_and_the_monitoring_with_it"
_FRONT: Final = "deploy/test_fronts.py::test_two_gateways_replaced_one_by_one_fail_no_request"
SHOWN_BY: Final = MappingProxyType(
    {
        ".dockerignore": "deploy/test_files.py::test_no_secret_has_a_place_in_the_environment_file_or_the_image",
        ".env.example": "deploy/test_files.py::test_the_example_environment_has_every_variable_with_its_default",
        "Dockerfile": f"{_SCENARIO}::test_the_readme_lines_make_a_team_and_a_key_that_works",
        "deploy/OPERATIONS.md": "deploy/test_observability.py::test_every_alert_has_its_place_in_the_runbook",
        "deploy/README.md": "deploy/test_examples.py::test_every_file_and_heading_that_a_guide_names_exists",
        "deploy/backup.sh": f"{_SCENARIO}::test_a_backup_restored_has_the_balances_and_keys_of_its_moment",
        "deploy/caddy/Caddyfile": _FRONT,
        "deploy/compose/gateway.toml": "deploy/test_manifests.py::test_the_configurations_are_valid",
        "deploy/compose/valkey.conf": "deploy/test_examples.py::test_valkey_takes_the_configuration",
        "deploy/digests.sh": "deploy/test_files.py::test_every_image_is_a_variable_and_is_pinned_by_its_digest",
        "deploy/grafana/dashboard.json": "deploy/test_observability.py::test_panels_do_not_cover_each_other",
        "deploy/grafana/provisioning-dashboards.yml": (
            "deploy/test_observability.py::test_grafana_is_given_the_dashboard_and_the_place_of_its_numbers"
        ),
        "deploy/grafana/provisioning-datasource.yml": (
            "deploy/test_observability.py::test_grafana_is_given_the_dashboard_and_the_place_of_its_numbers"
        ),
        "deploy/kubernetes/base/deployment.yaml": _MANIFEST,
        "deploy/kubernetes/base/horizontalpodautoscaler.yaml": _MANIFEST,
        "deploy/kubernetes/base/kustomization.yaml": _KUSTOMIZE,
        "deploy/kubernetes/base/networkpolicy.yaml": _MANIFEST,
        "deploy/kubernetes/base/poddisruptionbudget.yaml": _MANIFEST,
        "deploy/kubernetes/base/service.yaml": _MANIFEST,
        "deploy/kubernetes/monitoring/kustomization.yaml": _KUSTOMIZE,
        "deploy/kubernetes/monitoring/servicemonitor.yaml": (
            "deploy/test_manifests.py::test_the_monitoring_scrapes_a_port_that_the_service_has"
        ),
        "deploy/kubernetes/overlays/example/gateway.toml": (
            "deploy/test_manifests.py::test_the_configurations_are_valid"
        ),
        "deploy/kubernetes/overlays/example/kustomization.yaml": _KUSTOMIZE,
        "deploy/kubernetes/overlays/example/namespace.yaml": _MANIFEST,
        "deploy/kubernetes/overlays/example/replicas.yaml": (
            "deploy/test_manifests.py::test_an_overlay_patch_changes_something_that_is_there"
        ),
        "deploy/kubernetes/overlays/example/store.yaml": _MANIFEST,
        "deploy/kubernetes/overlays/example/valkey.conf": (
            "deploy/test_examples.py::test_valkey_takes_the_configuration"
        ),
        "deploy/local-images/build.sh": "deploy/test_examples.py::test_a_script_is_one_that_its_shell_takes",
        "deploy/metrics.md": "observability/test_catalogue.py::test_the_document_s_table_is_the_catalogue",
        "deploy/nginx/gateway.conf": _FRONT,
        "deploy/prometheus/prometheus.yml": (
            "deploy/test_observability.py::test_prometheus_takes_the_configuration_and_asks_the_gateways"
        ),
        "deploy/prometheus/rules.yml": "deploy/test_observability.py::test_prometheus_takes_the_rules",
        "deploy/release/release.yml": "deploy/test_release.py::test_the_release_signs_and_attests_what_it_builds",
        "deploy/release/sbom.py": "deploy/test_release.py::test_a_bill_of_materials_has_cyclonedx_structure",
        "deploy/restore.sh": f"{_SCENARIO}::test_a_backup_restored_has_the_balances_and_keys_of_its_moment",
        "deploy/secrets.sh": "deploy/test_files.py::test_secrets_are_made_once_and_stay",
        "deploy/systemd/gateway.service": "deploy/test_files.py::test_the_unit_is_one_that_systemd_takes",
        "docker-compose.yml": "deploy/test_files.py::test_every_service_is_hardened_bounded_and_restarted",
        "gateway.example.toml": "unit/test_settings.py::test_the_example_loads",
    }
)
GUIDES: Final = ("deploy/README.md", "deploy/OPERATIONS.md", "deploy/metrics.md", "SECURITY.md")
CONFIGURATIONS: Final = ("deploy/compose/valkey.conf", "deploy/kubernetes/overlays/example/valkey.conf")
SCRIPTS: Final = (
    "deploy/backup.sh",
    "deploy/digests.sh",
    "deploy/restore.sh",
    "deploy/secrets.sh",
    "deploy/local-images/build.sh",
    ".ci/run",
)


def test_every_example_has_a_test() -> None:
    top = ("Dockerfile", "docker-compose.yml", ".env.example", ".dockerignore", "gateway.example.toml")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "deploy", *top],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    assert {name for name in listed.stdout.splitlines() if (ROOT / name).exists()} == set(SHOWN_BY)


def test_each_of_those_tests_exists() -> None:
    missing = []
    for shown in sorted(set(SHOWN_BY.values())):
        file, name = shown.split("::")
        tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        if name not in {function.name for function in functions}:
            missing.append(shown)
    assert missing == []


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_one_that_its_shell_takes(name: str) -> None:
    script = ROOT / name
    assert script.stat().st_mode & 0o111, "it can be started"
    shell = script.read_text(encoding="utf-8").splitlines()[0].removeprefix("#!").split()
    checked = subprocess.run([*shell, "-n", script], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_valkey_takes_the_configuration(name: str, tmp_path: Path) -> None:
    """Runs the file itself, except for the paths and the address that a container has."""
    auth = tmp_path / "store_auth.conf"
    auth.write_text("")
    text = (ROOT / name).read_text(encoding="utf-8")
    text = text.replace("/run/secrets/store/store_auth.conf", str(auth))
    text = text.replace("dir /data", f"dir {tmp_path}").replace("bind * -::*", "bind 127.0.0.1")
    here = tmp_path / "valkey.conf"
    here.write_text(text)
    with valkey_server(binary=str(_wrapped(here, tmp_path)), appendonly="yes") as server:
        told = server.run("CONFIG", "GET", "*")
        found = dict(zip(told[::2], told[1::2], strict=True))
    assert (found[b"maxmemory-policy"], found[b"appendfsync"]) == (b"noeviction", b"everysec")
    assert int(found[b"maxmemory"]) == 512 * 1024 * 1024


def _wrapped(config: Path, directory: Path) -> Path:
    """Returns a program that is the server with this file. Options of the test harness follow and take precedence."""
    program = directory / "server"
    program.write_text(f'#!/bin/sh\nexec "{binaries()["valkey"]}" "{config}" "$@"\n')
    program.chmod(0o755)
    return program


@pytest.mark.parametrize("guide", GUIDES)
def test_every_file_and_heading_that_a_guide_names_exists(guide: str) -> None:
    text = (ROOT / guide).read_text(encoding="utf-8")
    missing = []
    for link in re.findall(r"\]\((?!https?://)([^)]+)\)", text):
        name, _, anchor = link.partition("#")
        target = (ROOT / guide).parent / name if name else ROOT / guide
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            missing.append(link)
    assert missing == []


def _anchors(document: Path) -> set[str]:
    """Returns the anchors of the headings, as GitHub creates them, and explicit anchors."""
    text = document.read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    made = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return made | set(re.findall(r'<a id="([^"]+)">', text))
