"""The table of metrics in deploy/metrics.md is the catalogue, and the catalogue is what a gateway answers."""

import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.observability.metrics.catalogue import METRICS, as_table
from tests.support.gateway import RunningGateway

DOCUMENT = Path(__file__).parents[2] / "deploy" / "metrics.md"


def test_the_document_s_table_is_the_catalogue() -> None:
    assert as_table() in DOCUMENT.read_text(encoding="utf-8")


def test_every_metric_that_the_document_mentions_exists() -> None:
    mentioned = set(re.findall(r"gateway_[a-z_]+", DOCUMENT.read_text(encoding="utf-8")))
    suffixed = {re.sub(r"_(bucket|sum|count)$", "", name) for name in mentioned}
    assert suffixed <= set(METRICS)


@pytest.mark.parametrize("name", METRICS)
def test_a_name_says_its_unit_and_its_kind(name: str) -> None:
    metric = METRICS[name]
    assert name.endswith("_total") == (metric.kind == "counter")
    assert name.endswith("_seconds") == (metric.kind == "histogram")
    assert bool(metric.buckets) == (metric.kind == "histogram")
    assert list(metric.buckets) == sorted(set(metric.buckets))


def test_a_gateway_answers_with_every_metric_and_no_other(gateway: RunningGateway) -> None:
    with gateway.http() as http:
        families = list(text_string_to_metric_families(http.get("/metrics").text))
    names = {family.name + ("_total" if family.type == "counter" else "") for family in families}
    assert names == set(METRICS)
    kinds = {family.name + ("_total" if family.type == "counter" else ""): family.type for family in families}
    assert kinds == {name: metric.kind for name, metric in METRICS.items()}


def test_labels_are_those_of_the_catalogue(gateway: RunningGateway) -> None:
    key = gateway.new_key()
    with gateway.http(key) as http:
        for stream in (False, True):
            http.post("/v1/responses", json={"model": "o4-mini", "input": "x", "stream": stream})
        families = list(text_string_to_metric_families(http.get("/metrics").text))
    seen = 0
    for family in families:
        metric = METRICS[family.name + ("_total" if family.type == "counter" else "")]
        for sample in family.samples:
            seen += 1
            assert set(sample.labels) - {"le"} == set(metric.labels)
    assert seen > 50


def test_openmetrics_is_spoken_to_who_asks_for_it(gateway: RunningGateway) -> None:
    with gateway.http() as http:
        answer = http.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")
