"""Alerts and dashboards refer to metrics and labels that exist, and to places in the runbook that exist."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from gateway.observability.metrics.catalogue import METRICS
from tests.deploy.stack import ROOT

DEPLOY: Final = ROOT / "deploy"
RULES: Final = DEPLOY / "prometheus" / "rules.yml"
SERIES: Final = re.compile(r"\b(gateway_\w+)(?:\{([^}]*)\})?")


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text(encoding="utf-8"))[
        "panels"
    ]
    return found


def expressions() -> list[str]:
    asked = [target["expr"] for panel in panels() for target in panel["targets"]]
    return [rule["expr"] for rule in rules()] + asked


@pytest.mark.parametrize("expression", expressions())
def test_an_expression_names_metrics_and_labels_that_exist(expression: str) -> None:
    for name, selector in SERIES.findall(expression):
        metric = METRICS[re.sub(r"_bucket$", "", name)]
        assert name.endswith("_bucket") == (metric.kind == "histogram")
        for label in re.findall(r"(\w+)[=!]", selector):
            assert label in metric.labels
        for labels in re.findall(r"by \(([^)]*)\)", expression):
            assert {label.strip() for label in labels.split(",")} <= {*metric.labels, "le"}


def test_every_alert_has_its_place_in_the_runbook() -> None:
    runbook = (DEPLOY / "OPERATIONS.md").read_text(encoding="utf-8")
    for rule in rules():
        file, anchor = rule["annotations"]["runbook"].split("#")
        assert file == "OPERATIONS.md"
        assert f'<a id="{anchor}">' in runbook, rule["alert"]


def test_panels_do_not_cover_each_other() -> None:
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels()]
    assert len(set(places)) == len(places)


def test_prometheus_takes_the_configuration_and_asks_the_gateways(tmp_path: Path) -> None:
    text = (DEPLOY / "prometheus" / "prometheus.yml").read_text(encoding="utf-8")
    told = yaml.safe_load(text)
    mounted = dict(volume.split(":")[:2][::-1] for volume in compose()["prometheus"]["volumes"])
    for name in told["rule_files"]:
        assert (ROOT / mounted[name]).samefile(RULES)
        text = text.replace(name, str(RULES))
    (job,) = told["scrape_configs"]
    assert f'up{{job="{job["job_name"]}"}}' in RULES.read_text(encoding="utf-8")
    (names,) = (each["names"] for each in job["dns_sd_configs"])
    assert names == [name for name in compose() if re.fullmatch(r"gateway(-\d)?", name)]
    settings = tomllib.loads((DEPLOY / "compose" / "gateway.toml").read_text(encoding="utf-8"))
    assert [each["port"] for each in job["dns_sd_configs"]] == [settings["admin"]["port"]]
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed")
    here = tmp_path / "prometheus.yml"
    here.write_text(text)
    checked = subprocess.run(["promtool", "check", "config", here], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_grafana_is_given_the_dashboard_and_the_place_of_its_numbers() -> None:
    grafana = compose()["grafana"]
    mounted = {volume.split(":")[1]: volume.split(":")[0] for volume in grafana["volumes"] if volume[0] == "."}
    for inside, outside in mounted.items():
        assert (ROOT / outside).is_file(), inside
    (source,) = provisioning("datasource")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in compose()
    assert source["isDefault"] is True
    (provider,) = provisioning("dashboards")["providers"]
    assert any(inside.startswith(provider["options"]["path"] + "/") for inside in mounted)
    assert {panel["datasource"]["type"] for panel in panels() if "datasource" in panel} <= {source["type"]}


def compose() -> dict[str, Any]:
    services: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
    return services


def provisioning(what: str) -> dict[str, Any]:
    path = DEPLOY / "grafana" / f"provisioning-{what}.yml"
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert found["apiVersion"] == 1
    return found


def test_prometheus_takes_the_rules() -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed")
    checked = subprocess.run(["promtool", "check", "rules", RULES], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
