"""Traces, as a real collector receives them over a real socket, and that they cost nothing while they are off."""

import importlib
import io
import json
import pkgutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.semconv import attributes as stable
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes

from tests.observability.collector import Received, Span, collector
from tests.support.configured import configured
from tests.support.gateway import UPSTREAM_KEY, RunningGateway, StartGateway, running_gateway
from tests.support.ports import free_port
from tests.support.program import environment, run
from tests.support.sent import Sent
from tests.support.servers import Server
from tests.support.waiting import wait_until_sync

PROMPT = "a-prompt-that-nobody-may-trace"
BODY = {"model": "o4-mini", "input": PROMPT}
TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CALLER = {"traceparent": f"00-{TRACE_ID}-{SPAN_ID}-01", "tracestate": "vendor=t61rcWkgMzE"}


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> Iterator[Received]:
    """A collector that the SDK's own variables name."""
    with collector() as received:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", received.endpoint)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        yield received


@pytest.fixture
def traced(received: Received, start: StartGateway) -> Iterator[RunningGateway]:
    with start(telemetry={"traces": True}) as gateway:
        yield gateway


def named(spans: list[Span]) -> dict[str, Span]:
    by_name = {span.name: span for span in spans}
    assert len(by_name) == len(spans), "each once"
    return by_name


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_request_is_a_server_span_with_its_steps_and_the_model_s_call(
    traced: RunningGateway, received: Received, upstream: str, stream: bool
) -> None:
    key = traced.new_key()
    before_ns = time.time_ns()
    with traced.http(key) as http:
        answer = http.post("/v1/responses", json={**BODY, "stream": stream, "max_output_tokens": 50})
    spans = named(received.trace())
    assert set(spans) == {"POST /v1/responses", "read", "admit", "chat o4-mini", "settle"}
    server, chat = spans["POST /v1/responses"], spans["chat o4-mini"]
    assert before_ns <= server.begin_ns <= server.end_ns <= time.time_ns()
    for name, span in spans.items():
        assert span.parent_id == ("" if span is server else server.span_id), name
        assert server.begin_ns <= span.begin_ns <= span.end_ns <= server.end_ns, name
        assert not span.is_error
    spent = traced.balance(key).spent
    assert server.attributes == {
        "http.request.method": "POST",
        "http.route": "/v1/responses",
        "http.response.status_code": 200,
        "url.path": "/v1/responses",
        "client.address": "127.0.0.1",
        "gateway.request_id": answer.headers["x-request-id"],
        "gateway.outcome": "completed",
        "gateway.team.id": key.team.id,
        "gateway.key.id": key.id,
        "gateway.model": "o4-mini",
        "gateway.stream": stream,
        "gateway.settled_by": "usage",
        "gateway.cost_nano_usd": spent,
    }
    assert spent > 0
    first_chunk_s = chat.attributes.pop("gen_ai.response.time_to_first_chunk", None)
    assert (first_chunk_s is not None) == stream
    usage = usage_of(answer.text) if stream else answer.json()["usage"]
    assert chat.attributes.pop("gen_ai.response.id").startswith("resp_")
    host, port = upstream.removeprefix("http://").removesuffix("/v1").split(":")
    assert chat.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "simulator",
        "gen_ai.request.model": "o4-mini",
        "gen_ai.request.max_tokens": 50,
        "gen_ai.request.stream": stream,
        "gen_ai.usage.input_tokens": usage["input_tokens"],
        "gen_ai.usage.cache_read.input_tokens": usage["input_tokens_details"]["cached_tokens"],
        "gen_ai.usage.output_tokens": usage["output_tokens"],
        "gen_ai.usage.reasoning.output_tokens": usage["output_tokens_details"]["reasoning_tokens"],
        "server.address": host,
        "server.port": int(port),
        "http.request.method": "POST",
        "http.response.status_code": 200,
    }


def usage_of(stream: str) -> dict[str, Any]:
    (line,) = [line for line in stream.splitlines() if line.startswith('data: {"type":"response.completed"')]
    usage: dict[str, Any] = json.loads(line[6:])["response"]["usage"]
    return usage


def test_attributes_have_the_names_of_the_conventions(traced: RunningGateway, received: Received) -> None:
    with traced.http(traced.new_key()) as http:
        http.post("/v1/responses", json={**BODY, "stream": True})
        http.post("/v1/responses", json={**BODY, "model": "sim/error-500"})
    received.trace(count=2)
    names = [module.name for module in pkgutil.iter_modules(stable.__path__)]
    modules = [importlib.import_module(f"{stable.__name__}.{name}") for name in names] + [gen_ai_attributes]
    conventional = {value for module in modules for value in vars(module).values() if isinstance(value, str)}
    used = {name for span in received.spans for name in span.attributes}
    assert {name for name in used if not name.startswith("gateway.")} <= conventional
    assert "error.type" in used


def test_a_caller_s_trace_is_continued_and_the_upstream_continues_it(
    traced: RunningGateway, received: Received, upstream: str
) -> None:
    with traced.http(traced.new_key()) as http:
        answer = http.post("/v1/responses", json=BODY, headers=CALLER)
    spans = named(received.trace())
    assert {span.trace_id for span in spans.values()} == {TRACE_ID}
    assert spans["POST /v1/responses"].parent_id == SPAN_ID
    sent = Sent(upstream).of(answer.headers["x-request-id"]).headers
    assert sent["traceparent"] == f"00-{TRACE_ID}-{spans['chat o4-mini'].span_id}-01"
    assert sent["tracestate"] == CALLER["tracestate"]


@pytest.mark.parametrize(
    "given", [{}, {"traceparent": "00-a-b-01"}, {"traceparent": f"00-{'0' * 32}-{SPAN_ID}-01", "tracestate": "a=b"}]
)
def test_without_a_trace_that_can_be_continued_one_begins(
    traced: RunningGateway, received: Received, upstream: str, given: dict[str, str]
) -> None:
    with traced.http(traced.new_key()) as http:
        answer = http.post("/v1/responses", json=BODY, headers=given)
    spans = named(received.trace())
    sent = Sent(upstream).of(answer.headers["x-request-id"]).headers
    chat = spans["chat o4-mini"]
    trace, span, flags = sent["traceparent"].split("-")[1:]
    assert (trace, span) == (chat.trace_id, chat.span_id)
    assert int(flags, 16) & 1, "sampled"
    assert "tracestate" not in sent


def test_what_a_caller_does_not_sample_is_not_sent_and_the_upstream_is_told_so(
    traced: RunningGateway, received: Received, upstream: str
) -> None:
    with traced.http(traced.new_key()) as http:
        unsampled = {"traceparent": CALLER["traceparent"][:-2] + "00"}
        answer = http.post("/v1/responses", json=BODY, headers=unsampled)
        http.post("/v1/responses", json=BODY)
    assert {span.trace_id for span in received.trace()} & {TRACE_ID} == set()
    trace, flags = Sent(upstream).of(answer.headers["x-request-id"]).headers["traceparent"].split("-")[1::2]
    assert (trace, flags) == (TRACE_ID, "00")


def test_each_attempt_at_an_upstream_is_a_span_of_its_own(
    received: Received, start: StartGateway, upstream: str
) -> None:
    away = {"base_url": f"http://127.0.0.1:{free_port()}/v1", "api_keys": ["env:TEST_UPSTREAM_KEY"]}
    near = {"base_url": upstream, "api_keys": ["env:TEST_UPSTREAM_KEY"]}
    two = {"model": "*", "upstreams": ["away", "near"]}
    with start(telemetry={"traces": True}, upstreams={"away": away, "near": near}, routes=[two]) as gateway:
        with gateway.http(gateway.new_key()) as http:
            answer = http.post("/v1/responses", json=BODY)
            assert answer.status_code == 200
        spans = received.trace()
    failed, good = [span for span in spans if span.name == "chat o4-mini"]
    assert (failed.attributes["gen_ai.provider.name"], failed.attributes["error.type"]) == ("away", "connect")
    assert failed.is_error
    assert (good.attributes["gen_ai.provider.name"], good.is_error) == ("near", False)
    assert failed.end_ns <= good.begin_ns
    parent = Sent(upstream).of(answer.headers["x-request-id"]).headers["traceparent"].split("-")[2]
    assert parent == good.span_id
    assert not next(span for span in spans if span.name == "POST /v1/responses").is_error


@pytest.mark.parametrize(
    ("fields", "of_request", "of_attempt"),
    [
        ({"model": ""}, None, None),
        ({"model": "sim/error-400"}, None, "400"),
        ({"model": "sim/error-500"}, "500", "500"),
        ({"model": "sim/html"}, "upstream_invalid_response", "invalid_answer"),
        ({"model": "sim/cut-3", "stream": True}, "upstream_cut", "upstream_cut"),
        ({"model": "sim/failed", "stream": True}, "failed", "failed"),
        ({"model": "sim/incomplete", "stream": True}, None, None),
    ],
    ids=["refused", "400", "500", "html", "cut", "failed", "incomplete"],
)
def test_an_error_is_named_where_it_happened(
    traced: RunningGateway,
    received: Received,
    fields: dict[str, Any],
    of_request: str | None,
    of_attempt: str | None,
) -> None:
    with traced.http(traced.new_key()) as http:
        answer = http.post("/v1/responses", json={**BODY, **fields})
    spans = received.trace()
    (server,) = [span for span in spans if span.name == "POST /v1/responses"]
    assert (server.attributes.get("error.type"), server.is_error) == (of_request, of_request is not None)
    assert server.attributes["http.response.status_code"] == answer.status_code
    found = [(span.attributes.get("error.type"), span.is_error) for span in spans if span.name.startswith("chat")]
    assert found == ([(of_attempt, of_attempt is not None)] if fields["model"] else [])
    assert server.attributes.get("gateway.error.code") == (None if fields["model"] else "invalid_field") or of_request


def test_other_operations_go_by_their_own_name(traced: RunningGateway, received: Received) -> None:
    with traced.http(traced.new_key()) as http:
        response_id = http.post("/v1/responses", json=BODY).json()["id"]
        http.get(f"/v1/responses/{response_id}")
    spans = named(received.trace(count=2))
    assert spans["GET /v1/responses/{id}"].attributes["url.path"] == f"/v1/responses/{response_id}"
    assert spans["retrieve o4-mini"].attributes["http.request.method"] == "GET"


def test_nothing_private_is_in_a_trace(traced: RunningGateway, received: Received) -> None:
    key = traced.new_key()
    models = ["o4-mini", "sim/error-500", "sim/html", "sim/bad-json", "sim/cut-3", "sim/error-event"]
    with traced.http(key) as http:
        for model in models:
            http.post("/v1/responses", json={**BODY, "model": model, "stream": True}, headers={"cookie": PROMPT})
    received.trace(count=len(models))
    sent = b"".join(received.bodies)
    for private in (PROMPT, "You said", key.text, key.text.rpartition("-")[2], UPSTREAM_KEY):
        assert private.encode() not in sent


def test_the_log_line_names_the_trace(received: Received, store: Server, upstream: str, tmp_path: Path) -> None:
    log = io.StringIO()
    options: dict[str, Any] = {"log": {"level": "info"}, "telemetry": {"traces": True}}
    with running_gateway(store.url, upstream, tmp_path, log_to=log, **options) as gateway:
        with gateway.http(gateway.new_key()) as http:
            http.post("/v1/responses", json=BODY, headers=CALLER)
        received.trace()
    (line,) = [json.loads(text) for text in log.getvalue().splitlines() if '"event":"request"' in text]
    assert line["trace_id"] == TRACE_ID


def test_a_collector_that_is_away_is_logged_when_it_goes_and_when_it_is_back(
    received: Received, store: Server, upstream: str, tmp_path: Path
) -> None:
    log = io.StringIO()
    options: dict[str, Any] = {"log": {"level": "info"}, "telemetry": {"traces": True}}

    def said(event: str) -> int:
        return [json.loads(line)["event"] for line in log.getvalue().splitlines()].count(event)

    with (
        running_gateway(store.url, upstream, tmp_path, log_to=log, **options) as gateway,
        gateway.http(gateway.new_key()) as http,
    ):
        received.refuses = True
        for _ in range(3):
            assert http.post("/v1/responses", json=BODY).status_code == 200
        wait_until_sync(lambda: said("traces_not_exported") == 1, what="it is logged")
        received.refuses = False
        http.post("/v1/responses", json=BODY)
        wait_until_sync(lambda: said("traces_exported") == 1, what="it is back")
    assert said("traces_not_exported") == 1
    (line,) = [json.loads(text) for text in log.getvalue().splitlines() if "traces_not_exported" in text]
    assert "400" in line["reason"]


def test_several_workers_send_theirs_under_the_name_that_the_environment_gives(
    received: Received,
    gateway: RunningGateway,
    store: Server,
    upstream: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=ours,deployment.environment.name=test")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20a-collector-s-token")
    served = configured(store.url, upstream, tmp_path / "workers", workers=2, more="[telemetry]\ntraces = true")
    with served.serving() as process, gateway.http(gateway.new_key()) as http:
        http.post(f"{process.url}/v1/responses", json=BODY)
    # At its end it has sent what was left.
    resource = received.trace()[0].resource
    assert resource["service.name"] == "ours"
    assert resource["deployment.environment.name"] == "test"
    assert received.headers["authorization"] == "Bearer a-collector-s-token"
    assert "a-collector-s-token" not in process.program.err


def test_a_collector_that_never_answers_does_not_hold_up_the_end(
    gateway: RunningGateway, store: Server, upstream: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    served = configured(store.url, upstream, tmp_path / "away", more="[telemetry]\ntraces = true")
    with served.serving() as process, gateway.http(gateway.new_key()) as http:
        http.post(f"{process.url}/v1/responses", json=BODY)
        assert process.program.stop() == 0
    lines = [json.loads(line) for line in process.program.err.splitlines()]
    (away,) = [line for line in lines if line["event"] == "traces_not_exported"]
    assert "Connection refused" in away["reason"]


# --- Traces are off, or the SDK is missing ----------------------------------------------------------------------------


def test_off_a_caller_s_trace_goes_on_to_the_upstream_as_it_came(gateway: RunningGateway, upstream: str) -> None:
    with gateway.http(gateway.new_key()) as http:
        answer = http.post("/v1/responses", json=BODY, headers=CALLER)
    sent = Sent(upstream).of(answer.headers["x-request-id"]).headers
    assert {name: sent[name] for name in CALLER} == CALLER


def test_off_nothing_is_sent_whatever_the_environment_says(
    received: Received, start: StartGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")
    with start() as gateway, gateway.http(gateway.new_key()) as http:
        for path in ("/v1/models", "/healthz"):
            assert http.get(path).status_code == 200
        http.post("/v1/responses", json=BODY)
    assert (received.spans, received.refused) == ([], 0)  # its end would have sent what was left


def test_off_the_exporter_is_not_even_imported(tmp_path: Path) -> None:
    absent = {"gateway.observability.tracing", "opentelemetry.exporter"}
    program = f"import sys, gateway.server; print({absent} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"


CONFIG = """
[upstreams.one]
base_url = "http://127.0.0.1:9/v1"
api_keys = ["env:TEST_UPSTREAM_KEY"]
[[routes]]
model = "*"
upstreams = ["one"]
[telemetry]
traces = true
"""


@pytest.mark.parametrize("command", ["check", "serve"])
def test_without_the_extra_one_line_says_what_to_install(tmp_path: Path, command: str) -> None:
    (tmp_path / "gateway.toml").write_text(CONFIG)
    # Found before the installed one: an SDK that is not there.
    absent = tmp_path / "path" / "opentelemetry" / "sdk"
    absent.mkdir(parents=True)
    (absent / "__init__.py").write_text("raise ModuleNotFoundError('No module named opentelemetry.sdk')")
    path = {"PYTHONPATH": f"{tmp_path / 'path'}:{environment()['PYTHONPATH']}", "TEST_UPSTREAM_KEY": "key"}
    done = run(command, "--config", "gateway.toml", cwd=tmp_path, env=path)
    assert done.code == 1
    assert 'telemetry.traces: needs the extra "otel"' in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("variables", "code", "said"),
    [
        ({}, 0, "traces     on"),
        ({"OTEL_TRACES_SAMPLER": "nonsense"}, 1, "nonsense"),
        ({"OTEL_EXPORTER_OTLP_TIMEOUT": "nonsense"}, 1, "nonsense"),
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "nonsense"}, 1, "OTEL_BSP_MAX_QUEUE_SIZE"),
    ],
    ids=["none", "sampler", "timeout", "queue"],
)
def test_a_variable_that_the_sdk_does_not_take_is_found_by_check(
    tmp_path: Path, variables: dict[str, str], code: int, said: str
) -> None:
    (tmp_path / "gateway.toml").write_text(CONFIG)
    done = run("check", "--config", "gateway.toml", cwd=tmp_path, env={**variables, "TEST_UPSTREAM_KEY": "key"})
    assert done.code == code, done.err
    assert said in done.out + done.err
    assert "Traceback" not in done.err
