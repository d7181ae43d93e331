"""What a client sees of an upstream's refusals, and of answers that are not responses.

 the upstream answers                                    | the client sees                                      |
---------------------------------------------------------|------------------------------------------------------|
 400, 403, 404, 408, 413, 422, 429: JSON, or nothing     | the same, marked as the upstream's                   |
 401, 402                                                | 502 upstream_rejected_gateway: not the caller's      |
 HTML, half a JSON, another content type, 200 with error | 502 upstream_invalid_response; details in the log    |
"""

import json

import openai
import pytest

from tests.faults.conftest import Stages
from tests.support.scenario import JSON, MODEL
from tests.support.scripted_upstream import answer, request
from tests.support.waiting import wait_until

HTML = b"content-type: text/html\r\n"


@pytest.mark.parametrize("status", [400, 403, 404, 408, 413, 422, 429])
async def test_an_upstreams_refusal_passes_unchanged(stages: Stages, status: int) -> None:
    body = b'{"error":  {"message": "no", "code": "x", "extra": [1.0]}}'
    refusal = answer(body, status=b"%d Refused" % status, headers=JSON + b"retry-after: 7\r\nset-cookie: a=b\r\n")
    async with stages([request(), refusal], upstream={"key_rest_s": 0.001}) as scenario:
        client = await scenario.ask()
        await client.read_all()
        assert (client.status, client.body) == (status, body)
        assert client.header("x-gateway-limit-source") == "upstream"
        assert client.header("retry-after") == "7"
        assert client.header("set-cookie") is None
        await scenario.ended(outcome="upstream_refused", upstream_status=status)


@pytest.mark.parametrize("body", [b"404 page not found\n", b"<html>no</html>", b""], ids=["text", "HTML", "nothing"])
async def test_what_an_upstream_does_not_offer_is_its_own_404(stages: Stages, body: bytes) -> None:
    absent = answer(body, status=b"404 Not Found", headers=b"content-type: text/plain\r\n")
    async with stages([request(), absent]) as scenario:
        with pytest.raises(openai.NotFoundError) as caught:
            await scenario.sdk().responses.input_tokens.count(model=MODEL, input="hello")
        assert caught.value.response.content == body
        assert caught.value.response.headers["x-gateway-limit-source"] == "upstream"


@pytest.mark.parametrize("body", [b"", b'[{"error": {"code": 400}}]', b'"no"'], ids=["nothing", "a list", "a text"])
async def test_a_refusal_need_not_be_an_object(stages: Stages, body: bytes) -> None:
    async with stages([request(), answer(body, status=b"422 No", headers=JSON)]) as scenario:
        client = await scenario.ask()
        await client.read_all()
        assert (client.status, client.body) == (422, body)
        assert client.header("x-gateway-limit-source") == "upstream"


@pytest.mark.parametrize(("upstream", "status"), [(429, 429), (503, 502)])
async def test_what_stands_in_place_of_a_page_says_when_to_come_back_as_the_page_did(
    stages: Stages, upstream: int, status: int
) -> None:
    page = answer(b"<html>busy</html>", status=b"%d Busy" % upstream, headers=HTML + b"retry-after: 7\r\n")
    async with stages([request(), page]) as scenario:
        client = await scenario.ask()
        await client.read_all()
        assert (client.status, client.header("retry-after")) == (status, "7")


@pytest.mark.parametrize("status", [401, 402])
async def test_a_refusal_of_the_gateways_account_is_not_the_callers(stages: Stages, status: int) -> None:
    refusal = answer(b'{"error": {"message": "your key is sk-secret"}}', status=b"%d No" % status, headers=JSON)
    async with stages([request(), refusal], upstream={"key_rest_s": 0.001}) as scenario:
        with pytest.raises(openai.InternalServerError) as caught:
            await scenario.sdk().responses.create(model=MODEL, input="hello")
        assert (caught.value.status_code, caught.value.code) == (502, "upstream_rejected_gateway")
        assert "sk-secret" not in str(caught.value)
        assert caught.value.response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("reply", "upstream_status"),
    [
        (answer(b"<html>busy</html>", headers=HTML), 200),
        (answer(b'{"id": "resp_1"}', headers=b"content-type: text/plain\r\n"), 200),
        (answer(b'{"id": "resp_1"}'), 200),
        (answer(b"[]", headers=JSON), 200),
        (answer(b"", status=b"302 Found", headers=b"location: http://192.0.2.1/\r\n"), 302),
    ],
    ids=["HTML", "plain text", "no type", "no object", "a redirect"],
)
async def test_what_is_no_response_is_a_502(stages: Stages, reply: object, upstream_status: int) -> None:
    async with stages([request(), reply], upstream={"key_rest_s": 0.001}) as scenario:
        client = await scenario.ask()
        await client.read_all()
        assert client.status == 502
        assert json.loads(client.body)["error"]["code"] == "upstream_invalid_response"
        await wait_until(lambda: bool(scenario.log_lines()))
        line = scenario.log_lines()[0]
        assert (line["upstream_status"], line["code"]) == (upstream_status, "upstream_invalid_response")


async def test_half_a_json_is_a_502_and_its_input_is_charged(stages: Stages) -> None:
    async with stages([request(), answer(b'{"id": "resp_1", "out', headers=JSON)]) as scenario:
        client = await scenario.ask()
        await client.read_all()
        assert client.status == 502
        await scenario.ended(outcome="upstream_cut", settled_by="estimate", output_tokens=0, upstream_status=200)


async def test_a_json_answer_to_a_request_for_a_stream_is_passed_on(stages: Stages) -> None:
    async with stages() as scenario:
        client = await scenario.ask(stream=True)
        await client.read_all()
        assert (client.status, client.header("content-type")) == (200, "application/json")
        await scenario.ended(outcome="completed", settled_by="usage", usage=(100, 7))
