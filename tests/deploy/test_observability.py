"""Alerts and dashboard name metrics that exist, labels that they have, and places that are there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import Any, Final

import pytest
import yaml

from gateway.metrics.catalogue import METRICS
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


def test_prometheus_takes_the_rules() -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed")
    checked = subprocess.run(["promtool", "check", "rules", RULES], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
