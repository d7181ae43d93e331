"""Keys, bad requests, stored responses, models, and what is recorded."""

import base64
import hashlib
from typing import Any

import httpx
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.simulator import build_simulator
from gateway.simulator.record import Recent
from tests.simulator.client import Simulator, read_events, text_of
from tests.simulator.conftest import running
from tests.support.effort import effort
from tests.support.waiting import wait_until_sync


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Basic eDp5"])
def test_a_missing_bearer_token_is_401_in_the_error_format(simulator_url: str, authorization: str | None) -> None:
    headers = {} if authorization is None else {"authorization": authorization}
    answer = httpx.post(f"{simulator_url}/v1/responses", json={"model": "m", "input": "x"}, headers=headers)
    assert answer.status_code == 401
    assert answer.json()["error"] == {
        "message": "A bearer token is required (any will do)",
        "type": "authentication_error",
        "param": "",
        "code": "invalid_api_key",
    }


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"{", "invalid_json", ""),
        (b"[]", "invalid_json", ""),
        (b"", "invalid_json", ""),
        (b'{"input": "x"}', "missing_field", "model"),
        (b'{"model": 5, "input": "x"}', "invalid_field", "model"),
        (b'{"model": "", "input": "x"}', "invalid_field", "model"),
        (b'{"model": "sim/slow-x", "input": "x"}', "invalid_field", "model"),
        (b'{"model": "m"}', "missing_field", "input"),
        (b'{"model": "m", "input": 5}', "invalid_field", "input"),
        (b'{"model": "m", "input": ["x"]}', "invalid_field", "input"),
        (b'{"model": "m", "input": "x", "temperature": 2.1}', "invalid_field", "temperature"),
        (b'{"model": "m", "input": "x", "temperature": -0.1}', "invalid_field", "temperature"),
        (b'{"model": "m", "input": "x", "temperature": "hot"}', "invalid_field", "temperature"),
        (b'{"model": "m", "input": "x", "temperature": true}', "invalid_field", "temperature"),
        (b'{"model": "m", "input": "x", "max_output_tokens": 0}', "invalid_field", "max_output_tokens"),
        (b'{"model": "m", "input": "x", "stream": "yes"}', "invalid_field", "stream"),
        (b'{"model": "m", "input": "x", "tools": ["y"]}', "invalid_field", "tools"),
        (
            b'{"model": "m", "input": "x", "previous_response_id": "no"}',
            "previous_response_not_found",
            "previous_response_id",
        ),
        (
            b'{"model": "m", "input": "x", "text": {"format": {"type": "json_schema", "schema": {"type": 5}}}}',
            "invalid_field",
            "text.format.schema",
        ),
    ],
)
def test_a_bad_request_is_400_and_names_the_field(simulator: Simulator, body: bytes, code: str, param: str) -> None:
    answer = simulator.http.post("/v1/responses", content=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["type"], error["code"], error["param"]) == ("invalid_request", code, param)
    assert error["message"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["type", "format", "name", "text", "content", "role", "tools"]), inner)
    ),
    max_leaves=4,
)
names = ("input", "tool_choice", "text", "tools", "reasoning", "include", "metadata", "instructions")
shaped_text = st.fixed_dictionaries({"format": json_values})
shaped_tool = st.fixed_dictionaries({"type": st.just("function"), "name": json_values, "parameters": json_values})
shaped_choice = st.fixed_dictionaries(
    {"type": st.sampled_from(["function", "allowed_tools"])}, optional={"tools": json_values, "mode": json_values}
)
shaped = st.fixed_dictionaries(
    {}, optional={"text": shaped_text, "tools": st.lists(shaped_tool, max_size=2), "tool_choice": shaped_choice}
)
item_types = st.sampled_from(["message", "function_call", "function_call_output", "reasoning", "input_file"])
items = st.fixed_dictionaries({"type": item_types}, optional={"content": json_values, "output": json_values})


@given(
    fields=st.dictionaries(st.sampled_from(names), json_values, max_size=3) | shaped,
    given_items=st.none() | st.lists(items, min_size=1, max_size=2),
    model=st.sampled_from(["m", "sim/reasoner"]),
)
@settings(max_examples=effort(200))
def test_no_value_of_any_field_breaks_it(
    simulator: Simulator, fields: dict[str, object], given_items: object, model: str
) -> None:
    body = {"model": model, "input": "x", **fields} | ({"input": given_items} if given_items else {})
    assert simulator.http.post("/v1/responses", content=orjson.dumps(body)).status_code in {200, 400}


@pytest.mark.parametrize("temperature", [0, 1, 2, 2.0, None])
def test_the_ends_of_the_temperature_range_are_inside(simulator: Simulator, temperature: float | None) -> None:
    assert simulator.post("m", temperature=temperature).status_code == 200


def test_an_unknown_url_is_404_in_the_error_format(simulator: Simulator) -> None:
    for method, path in (("GET", "/v1/nothing"), ("GET", "/"), ("PUT", "/v1/responses")):
        answer = simulator.http.request(method, path)
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "unknown_url"


def test_a_stored_response_can_be_read_again_replayed_and_deleted(simulator: Simulator) -> None:
    events = simulator.events("sim/reasoner")
    identity = events[-1]["response"]["id"]
    assert simulator.http.get(f"/v1/responses/{identity}").json() == events[-1]["response"]
    assert read_events(simulator.http.get(f"/v1/responses/{identity}?stream=true").content) == events
    rest = simulator.http.get(f"/v1/responses/{identity}", params={"stream": "true", "starting_after": 3})
    assert read_events(rest.content) == events[4:]
    deleted = simulator.http.delete(f"/v1/responses/{identity}").json()
    assert deleted == {"id": identity, "object": "response", "deleted": True}
    gone = simulator.http.get(f"/v1/responses/{identity}")
    assert gone.status_code == 404
    assert gone.json()["error"]["code"] == "response_not_found"


def test_the_replay_of_a_misbehaving_model_behaves(simulator: Simulator) -> None:
    body = simulator.post("sim/crlf+comments", stream=True).content
    identity = body.partition(b'"id":"')[2].partition(b'"')[0].decode()
    replayed = read_events(simulator.http.get(f"/v1/responses/{identity}?stream=true").content)
    assert replayed[-1]["type"] == "response.completed"


def test_a_response_that_is_not_to_be_stored_is_not(simulator: Simulator) -> None:
    identity = simulator.answer("m", store=False)["id"]
    assert simulator.http.get(f"/v1/responses/{identity}").status_code == 404


def test_a_background_response_is_in_progress_until_it_is_done(simulator: Simulator) -> None:
    answer = simulator.answer("sim/slow-20+tokens-10", background=True)
    assert answer["status"] == "in_progress"
    assert answer["output"] == []

    def now() -> dict[str, Any]:
        return dict(simulator.http.get(f"/v1/responses/{answer['id']}").json())

    wait_until_sync(lambda: now()["status"] == "completed")
    assert text_of(now())


def test_only_a_background_response_can_be_cancelled(simulator: Simulator) -> None:
    running = simulator.answer("sim/slow-60000", background=True)["id"]
    assert simulator.http.post(f"/v1/responses/{running}/cancel").json()["status"] == "cancelled"
    assert simulator.http.get(f"/v1/responses/{running}").json()["status"] == "cancelled"
    done = simulator.answer("m", background=True)["id"]
    assert simulator.http.post(f"/v1/responses/{done}/cancel").json()["status"] == "completed"
    plain = simulator.answer("m")["id"]
    assert simulator.http.post(f"/v1/responses/{plain}/cancel").status_code == 400


def test_input_items_come_in_pages(simulator: Simulator) -> None:
    turns = [{"type": "message", "role": "user", "content": f"Turn {n}", "id": f"in_{n}"} for n in range(5)]
    path = f"/v1/responses/{simulator.answer('m', turns)['id']}/input_items"
    first = simulator.http.get(path, params={"limit": 3, "order": "asc"}).json()
    assert ([item["id"] for item in first["data"]], first["has_more"]) == (["in_0", "in_1", "in_2"], True)
    rest = simulator.http.get(path, params={"limit": 3, "order": "asc", "after": first["last_id"]}).json()
    assert ([item["id"] for item in rest["data"]], rest["has_more"]) == (["in_3", "in_4"], False)
    assert simulator.http.get(path).json()["data"][0]["id"] == "in_4"
    for query in ({"limit": "x"}, {"limit": 101}, {"after": "in_9"}):
        assert simulator.http.get(path, params=query).status_code == 400


def test_any_model_is_known_and_the_list_shows_the_behaviours(simulator: Simulator) -> None:
    listed = [model["id"] for model in simulator.http.get("/v1/models").json()["data"]]
    assert {"openai/gpt-5.2", "o4-mini", "sim/slow-20", "sim/reasoner"} <= set(listed)
    assert simulator.http.get("/v1/models/siraya/some-model").json()["id"] == "siraya/some-model"


@pytest.mark.parametrize("stream", [True, False])
def test_a_request_is_recorded_with_digests_and_without_its_key(simulator: Simulator, stream: bool) -> None:
    body = b'{"model": "m",  "input": "spaced", "stream": %b}' % (b"true" if stream else b"false")
    answer = simulator.http.post("/v1/responses?a=1", content=body, headers={"x-mine": "yes"})
    report = simulator.received()[0]
    assert (report["method"], report["path"], report["query"]) == ("POST", "/v1/responses", "a=1")
    assert base64.b64decode(report["body_base64"]) == body
    assert report["response_sha256"] == hashlib.sha256(answer.content).hexdigest()
    assert report["response_bytes"] == len(answer.content)
    assert (report["status"], report["client_left"]) == (200, False)
    assert ["x-mine", "yes"] in report["headers"]
    assert report["authorization"] == {
        "present": True,
        "sha256": hashlib.sha256(b"Bearer sk-anything").hexdigest(),
    }
    assert "sk-anything" not in str(report)


def test_a_refused_request_is_recorded_too(simulator_url: str) -> None:
    with httpx.Client(base_url=simulator_url) as client:
        client.post("/v1/responses", json={})
        report = Simulator(client).received()[0]
    assert report["status"] == 401
    assert report["authorization"] == {"present": False, "sha256": None}


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_its_bound_is_413(chunked: bool) -> None:
    body = b'{"model": "m", "input": "%b"}' % (b"x" * 1000)
    with running(build_simulator(max_body_bytes=len(body))) as url:
        headers = {"authorization": "Bearer x"}

        def post(content: bytes) -> httpx.Response:
            sent = iter([content[:500], content[500:]]) if chunked else content
            return httpx.post(f"{url}/v1/responses", content=sent, headers=headers)

        assert post(body).status_code == 200
        refused = post(body + b" ")
    assert refused.status_code == 413
    assert refused.json()["error"]["code"] == "body_too_large"


def test_memory_is_bounded_in_number_and_in_bytes() -> None:
    recent: Recent[int] = Recent(max_entries=3, max_bytes=100)
    for number in range(10):
        recent.add(str(number), number, 10)
    assert recent.newest(10) == [7, 8, 9]
    assert recent.newest(0) == []
    recent.add("large", 10, 95)
    assert recent.newest(10) == [10]
    recent.add("larger than all", 11, 1000)
    assert recent.newest(10) == [11]
    assert recent.get("9") is None
    recent.remove("larger than all")
    recent.add("a", 1, 50)
    recent.add("b", 2, 50)
    assert recent.newest(10) == [1, 2]
