"""Metrics as a real collector receives them: names, units and attributes of the GenAI conventions, with the version."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.observability.otel_metrics import OtelMetrics
from tests.observability.collector import Received, collector, plain
from tests.support.gateway import RunningGateway, StartGateway, running_gateway
from tests.support.servers import Server
from tests.support.waiting import wait_until_sync

TOKENS = "gen_ai.client.token.usage"
DURATION = "gen_ai.client.operation.duration"
FIRST_CHUNK = "gen_ai.client.operation.time_to_first_chunk"


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> Iterator[Received]:
    with collector() as received:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", received.endpoint)
        monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "50")
        yield received


@pytest.fixture
def measured(received: Received, start: StartGateway) -> Iterator[RunningGateway]:
    with start(telemetry={"metrics": True}) as gateway:
        yield gateway


def points(received: Received, name: str) -> list[tuple[dict[str, Any], int, float]]:
    """(attributes, count, sum) of a metric's points, as of the last export."""
    found = []
    if received.metrics:
        for group in received.metrics[-1].resource_metrics:
            for scope in group.scope_metrics:
                for metric in scope.metrics:
                    if metric.name == name:
                        found += [(plain(p.attributes), p.count, p.sum) for p in metric.histogram.data_points]
    return found


def ask(gateway: RunningGateway, **body: Any) -> Any:
    with gateway.http(gateway.new_key()) as http:
        return http.post("/v1/responses", json={"model": "o4-mini", "input": "hello", **body})


def test_a_request_s_tokens_and_duration_are_exported_under_the_conventions_names(
    measured: RunningGateway, received: Received
) -> None:
    usage = ask(measured).json()["usage"]
    wait_until_sync(lambda: len(points(received, TOKENS)) == 2, what="the tokens arrive")
    about = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "simulator",
        "gen_ai.request.model": "o4-mini",
    }
    assert sorted(points(received, TOKENS), key=str) == sorted(
        [
            ({**about, "gen_ai.token.type": "input"}, 1, usage["input_tokens"]),
            ({**about, "gen_ai.token.type": "output"}, 1, usage["output_tokens"]),
        ],
        key=str,
    )
    ((attributes, count, seconds),) = points(received, DURATION)
    assert (attributes, count) == (about, 1)
    assert seconds > 0
    assert points(received, FIRST_CHUNK) == [], "a whole answer has no chunks"
    (group,) = received.metrics[-1].resource_metrics
    resource = plain(group.resource.attributes)
    assert resource["service.name"] == "openresponses-gateway"
    assert resource["service.instance.id"]
    (scope,) = group.scope_metrics
    assert scope.schema_url == "https://opentelemetry.io/schemas/1.41.0"
    units = {metric.name: metric.unit for metric in scope.metrics}
    assert units == {TOKENS: "{token}", DURATION: "s"}


def test_a_stream_has_a_time_to_its_first_chunk_and_a_failure_its_type(
    measured: RunningGateway, received: Received
) -> None:
    ask(measured, stream=True)
    assert ask(measured, model="sim/error-500").status_code >= 500
    wait_until_sync(lambda: len(points(received, DURATION)) == 2, what="both durations arrive")
    ((attributes, count, _),) = points(received, FIRST_CHUNK)
    assert (attributes["gen_ai.request.model"], count) == ("o4-mini", 1)
    failed = {a["gen_ai.request.model"]: a.get("error.type") for a, _, _ in points(received, DURATION)}
    assert failed["o4-mini"] is None
    assert failed["sim/error-500"]


def test_a_refused_request_is_no_operation_of_a_provider(measured: RunningGateway, received: Received) -> None:
    with measured.http("sk-gw-none") as http:
        assert http.post("/v1/responses", json={"model": "o4-mini", "input": "x"}).status_code == 401
    ask(measured)
    wait_until_sync(lambda: bool(points(received, DURATION)), what="the other one arrives")
    assert [count for _, count, _ in points(received, DURATION)] == [1]


def test_what_was_counted_is_sent_before_the_end(
    received: Received, monkeypatch: pytest.MonkeyPatch, store: Server, upstream: str, tmp_path: Path
) -> None:
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "3600000")
    with running_gateway(store.url, upstream, tmp_path, telemetry={"metrics": True}) as gateway:
        ask(gateway)
        assert received.metrics == []
    assert len(points(received, TOKENS)) == 2


def test_names_of_models_are_bounded(received: Received, start: StartGateway) -> None:
    with start(telemetry={"metrics": True}, server={"metrics_max_series": 1}) as gateway:
        for model in ("first", "second", "third"):
            ask(gateway, model=model)
        wait_until_sync(
            lambda: (
                {a["gen_ai.request.model"]: c for a, c, _ in points(received, DURATION)} == {"first": 1, "other": 2}
            ),
            what="names beyond the bound are counted as other",
        )


async def test_an_interval_that_is_over_before_the_meter_is_built_is_no_wrong_setting(
    received: Received, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "0.001")
    for _ in range(20):
        await OtelMetrics(max_series=1).end()


def test_what_corrects_an_estimate_is_no_usage_below_zero(
    measured: RunningGateway, received: Received, caplog: pytest.LogCaptureFixture
) -> None:
    """The SDK would refuse it, with a warning for each."""
    with measured.sdk(measured.new_key()) as client:
        made = client.responses.create(model="sim/slow-20", input="x", background=True, max_output_tokens=500)
        wait_until_sync(lambda: client.responses.retrieve(made.id).usage is not None, what="it is corrected")
        last = client.responses.create(model="sim/echo", input="hello").usage
    assert last is not None
    wait_until_sync(lambda: len(points(received, TOKENS)) == 2, what="the tokens arrive")
    assert {(count, tokens) for _, count, tokens in points(received, TOKENS)} == {
        (1, last.input_tokens),
        (1, last.output_tokens),
    }
    assert "non-negative" not in caplog.text
