"""What is charged where a provider says nothing, or nothing sound: the work that can be seen, and not the wire."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.ledger.journal import Entry, Journal
from gateway.protocol.quantities import Usage
from tests.support.answering_provider import Answer, AnsweringProvider, response, streamed
from tests.support.gateway import NewKey, RunningGateway, running_gateway
from tests.support.servers import Server
from tests.support.waiting import wait_until_sync

INPUT, OUTPUT = 1_000, 10_000  # nano-USD per token
TEXT = "fourfour" * 25
TOKENS = len(TEXT) // 4
NOTHING = Usage(0, 0, 0, 0, 0, None)
NO_USAGE: dict[str, Any] = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
PICTURE = base64.b64encode(bytes([137, 80, 78, 71, 13, 10, 26, 10]) + bytes(1_500_000)).decode()


def message(text: str = TEXT) -> dict[str, Any]:
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}


@pytest.fixture(scope="module")
def provider() -> Iterator[AnsweringProvider]:
    with AnsweringProvider.serving(lambda _: Answer({})) as serving:
        yield serving


@pytest.fixture(scope="module")
def gateway(
    store: Server, provider: AnsweringProvider, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    directory: Path = tmp_path_factory.mktemp("gateway")
    spared: dict[str, Any] = {"model": "spared/*", "upstreams": ["simulator"], "charge_failed_input": False}
    routes = [{"model": "*", "upstreams": ["simulator"]}, spared]
    with running_gateway(store.url, provider.url, directory, routes=routes) as running:
        yield running


@pytest.fixture
def key(gateway: RunningGateway) -> NewKey:
    return gateway.new_key()


async def journal(gateway: RunningGateway, key: NewKey) -> tuple[Entry, ...]:
    return (await Journal(gateway.services.store).entries(key.team.id)).data


def charged(
    gateway: RunningGateway,
    provider: AnsweringProvider,
    answer: Answer,
    *,
    path: str = "/v1/responses",
    **fields: Any,
) -> tuple[int, int, int]:
    """What one request is charged: tokens of its input and of its output, and nano-USD in all."""
    provider.respond = lambda _: answer
    key = gateway.new_key()
    body: dict[str, Any] = {"model": "a/model", "input": "Hello", "store": False, **fields}
    if "input" in fields or "prompt" in fields:
        body = {"model": "a/model", **fields}
    elif path != "/v1/responses":
        body = {"model": "a/model", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1000, **fields}
    with gateway.http(key) as http:
        http.post(path, json=body)
    wait_until_sync(lambda: gateway.balance(key).held == 0, what="it is settled")
    found = [entry for entry in gateway.run(journal(gateway, key)) if entry.usage is not None]
    usage = (found[0].usage if found else None) or NOTHING
    return usage.input_tokens, usage.output_tokens, gateway.balance(key).spent


def used(gateway: RunningGateway, provider: AnsweringProvider, answer: Answer, **fields: Any) -> int:
    """The output tokens that a request is charged."""
    return charged(gateway, provider, answer, **fields)[1]


def chat(text: str = TEXT, usage: Any = None) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {"id": "c1", "object": "chat.completion", "choices": [choice], "usage": usage}


def chat_stream(*pieces: str, usage: Any = None) -> list[Any]:
    def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        body = {"id": "c1", "object": "chat.completion.chunk", "choices": [choice], **more}
        return b"data: %b\n\n" % httpx.Response(200, json=body).content

    texts = [chunk({"content": piece}) for piece in pieces]
    return [chunk({"role": "assistant", "content": ""}), *texts, chunk({}, "stop", usage=usage), b"data: [DONE]\n\n"]


PIECES = [TEXT[at : at + 8] for at in range(0, len(TEXT), 8)]


@pytest.mark.parametrize("usage", [None, NO_USAGE, {"input_tokens": 9}], ids=["none", "zeros", "half"])
def test_the_same_answer_costs_the_same_as_a_stream(
    gateway: RunningGateway, provider: AnsweringProvider, usage: Any
) -> None:
    whole = response(usage, output=[message()], instructions="x" * 50_000, tools=[{"type": "function", "name": "f"}])
    as_json = charged(gateway, provider, Answer(whole))
    as_stream = charged(gateway, provider, Answer(events=streamed(whole, *PIECES)), stream=True)
    assert as_json[1] == as_stream[1] == TOKENS
    assert abs(as_json[0] - as_stream[0]) <= 5, "the bodies of the requests differ"


@pytest.mark.parametrize("usage", [None, {"prompt_tokens": 0, "completion_tokens": 0}], ids=["none", "zeros"])
def test_a_chat_costs_the_same_as_a_stream(gateway: RunningGateway, provider: AnsweringProvider, usage: Any) -> None:
    path = "/v1/chat/completions"
    assert used(gateway, provider, Answer(chat(usage=usage)), path=path) == TOKENS
    pieces = Answer(events=chat_stream(*PIECES, usage=usage))
    assert TOKENS <= used(gateway, provider, pieces, path=path, stream=True) <= TOKENS + 4, "two deltas add nothing"


def test_a_usage_that_counts_no_output_where_there_is_some_counts_its_input_alone(
    gateway: RunningGateway, provider: AnsweringProvider
) -> None:
    usage = {"input_tokens": 123, "output_tokens": 0, "total_tokens": 123}
    found = charged(gateway, provider, Answer(response(usage, output=[message()])))
    assert found == (123, TOKENS, 123 * INPUT + TOKENS * OUTPUT)


def test_a_usage_of_zero_of_an_answer_without_output_is_one(
    gateway: RunningGateway, provider: AnsweringProvider
) -> None:
    assert charged(gateway, provider, Answer(response(NO_USAGE)))[2] == 0
    assert charged(gateway, provider, Answer(response({**NO_USAGE, "input_tokens": 7, "total_tokens": 7})))[2] == 7_000


def test_a_picture_is_no_text(gateway: RunningGateway, provider: AnsweringProvider) -> None:
    drawn = {"type": "image_generation_call", "id": "ig_1", "status": "completed", "result": PICTURE}
    whole = response(None, output=[drawn])
    assert used(gateway, provider, Answer(whole), max_output_tokens=100_000) == 1_500
    events = [
        {"type": "response.created", "sequence_number": 0, "response": response(None, status="in_progress")},
        {"type": "response.output_item.done", "sequence_number": 1, "item": drawn},
    ]
    cut = Answer(events=events)  # no terminal event follows
    assert used(gateway, provider, cut, max_output_tokens=100_000, stream=True) == 1_500


ERROR = {"type": "error", "sequence_number": 2, "code": "server_error", "message": "Failed.", "param": None}


@pytest.mark.parametrize("after", [[], [b"data: [DONE]\n\n"]], ids=["nothing", "[DONE]"])
def test_an_error_event_and_nothing_that_ends_the_answer_is_a_failure(
    gateway: RunningGateway, provider: AnsweringProvider, key: NewKey, after: list[bytes]
) -> None:
    events: list[Any] = [*streamed(response(None), *PIECES)[:-1], ERROR, *after]
    provider.respond = lambda _: Answer(events=events)
    with gateway.http(key) as http:
        http.post("/v1/responses", json={"model": "a/model", "input": "Hello", "stream": True})
    wait_until_sync(lambda: gateway.balance(key).held == 0, what="it is settled")
    (entry,) = [entry for entry in gateway.run(journal(gateway, key)) if entry.type == "settle"]
    assert (entry.outcome, entry.settled_by) == ("failed", "estimate")


@pytest.mark.parametrize("model", ["a/model", "spared/model"])
@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
def test_a_failure_before_any_output_costs_its_input_or_nothing(
    gateway: RunningGateway, provider: AnsweringProvider, model: str, streams: bool
) -> None:
    failed = response(None, status="failed", error={"code": "server_error", "message": "Failed."})
    answer = Answer(events=streamed(failed)) if streams else Answer(failed)
    cost = charged(gateway, provider, answer, model=model, stream=streams)[2]
    assert (cost == 0) is model.startswith("spared")
    said = response(None, status="failed", error={"code": "server_error"}, output=[message()])
    answer = Answer(events=streamed(said, *PIECES)) if streams else Answer(said)
    assert used(gateway, provider, answer, model=model, stream=streams) == TOKENS


@pytest.mark.parametrize(
    "part",
    [
        {"type": "input_image", "image_url": "data:image/png;base64," + PICTURE},
        {"type": "input_image", "image_url": PICTURE},
        {"type": "input_file", "file_data": base64.b64encode(b"%PDF-1.7" + bytes(300_000)).decode()},
        {"type": "input_audio", "input_audio": {"data": base64.b64encode(b"ID3" + bytes(300_000)).decode()}},
    ],
    ids=["a picture", "a picture without data:", "a document", "sound"],
)
@pytest.mark.parametrize("where", ["message", "tool output"])
def test_files_in_the_input_are_no_text(
    gateway: RunningGateway, provider: AnsweringProvider, part: dict[str, Any], where: str
) -> None:
    item = (
        {"role": "user", "content": [part]}
        if where == "message"
        else {"type": "function_call_output", "call_id": "call_1", "output": [part]}
    )
    read, _, _ = charged(gateway, provider, Answer(response(None)), input=[item])
    assert 1_000 < read < 30_000


def chats(usage: dict[str, Any]) -> dict[str, Answer]:
    return {"json": Answer(chat(usage=usage)), "stream": Answer(events=chat_stream(*PIECES, usage=usage))}


def responses(usage: dict[str, Any]) -> dict[str, Answer]:
    whole = response(usage, output=[message()])
    return {"json": Answer(whole), "stream": Answer(events=streamed(whole, *PIECES))}


def messages(usage: dict[str, Any]) -> dict[str, Answer]:
    start = {"id": "msg_1", "type": "message", "role": "assistant", "content": [], "model": "a/model"}
    first = {name: value for name, value in usage.items() if name not in ("output_tokens", "iterations")}
    texts = [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}} for piece in PIECES
    ]
    events: list[Any] = [
        {"type": "message_start", "message": {**start, "usage": {**first, "output_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *texts,
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage},
        {"type": "message_stop"},
    ]
    whole = {**start, "content": [{"type": "text", "text": TEXT}], "stop_reason": "end_turn", "usage": usage}
    return {"json": Answer(whole), "stream": Answer(events=events)}


DIALECTS = {
    "/v1/responses": (responses, ("input_tokens", "output_tokens")),
    "/v1/chat/completions": (chats, ("prompt_tokens", "completion_tokens")),
    "/v1/messages": (messages, ("input_tokens", "output_tokens")),
}


@pytest.mark.parametrize("form", ["json", "stream"])
@pytest.mark.parametrize("path", DIALECTS)
def test_a_usage_of_zeros_after_output_is_none(
    gateway: RunningGateway, provider: AnsweringProvider, path: str, form: str
) -> None:
    answers, names = DIALECTS[path]
    answer = answers(dict.fromkeys(names, 0))[form]
    read, written, cost = charged(gateway, provider, answer, path=path, stream=form == "stream")
    assert TOKENS <= written <= TOKENS + 4
    assert read > 0
    assert cost == read * INPUT + written * OUTPUT


CHECKED: dict[str, tuple[tuple[int, int], dict[str, Any], int]] = {
    "reasoning outside, as the total says": (
        (10_120, 1_499),
        {"input": {"cached_tokens": 128}, "output": {"reasoning_tokens": 2_809}, "total_tokens": 14_428},
        9_992 * INPUT + 128 * INPUT // 10 + (1_499 + 2_809) * OUTPUT,
    ),
    "cached outside, as the total says": (
        (100, 100),
        {"input": {"cached_tokens": 5_000}, "total_tokens": 5_200},
        100 * INPUT + 500 * INPUT + 100 * OUTPUT,
    ),
    "cached larger than its whole, whatever the total says": (
        (100, 100),
        {"input": {"cached_tokens": 5_000}, "total_tokens": 200},
        100 * INPUT + 500 * INPUT + 100 * OUTPUT,
    ),
    "a total with more than its parts": ((100, 10), {"total_tokens": 150}, 100 * INPUT + 50 * OUTPUT),
}


@pytest.mark.parametrize("form", ["json", "stream"])
@pytest.mark.parametrize("name", CHECKED)
@pytest.mark.parametrize("path", ["/v1/responses", "/v1/chat/completions"])
def test_a_usage_is_checked_against_itself(
    gateway: RunningGateway, provider: AnsweringProvider, path: str, name: str, form: str
) -> None:
    counts, more, cost = CHECKED[name]
    answers, names = DIALECTS[path]
    usage: dict[str, Any] = dict(zip(names, counts, strict=True))
    for side, of in zip(("input", "output"), names, strict=True):
        usage[f"{of}_details"] = more.get(side, {})
    usage["total_tokens"] = more["total_tokens"]
    assert charged(gateway, provider, answers(usage)[form], path=path, stream=form == "stream")[2] == cost


@pytest.mark.parametrize("form", ["json", "stream"])
def test_what_lies_outside_of_the_whole_is_charged(
    gateway: RunningGateway, provider: AnsweringProvider, form: str
) -> None:
    usage = {
        "input_tokens": 100,
        "cache_read_input_tokens": 5_000,
        "output_tokens": 10,
        "iterations": [
            {"type": "compaction", "input_tokens": 700, "output_tokens": 50},
            {"type": "message", "input_tokens": 100, "cache_read_input_tokens": 5_000, "output_tokens": 10},
        ],
    }
    cost = charged(gateway, provider, messages(usage)[form], path="/v1/messages", stream=form == "stream")[2]
    assert cost == (700 + 100 + 500) * INPUT + 60 * OUTPUT


@pytest.mark.parametrize(
    ("path", "fields", "answer"),
    [
        (
            "/v1/embeddings",
            {"input": "four" * 100},
            {"object": "list", "data": [{"embedding": [0.1]}], "usage": {"prompt_tokens": 0, "total_tokens": 0}},
        ),
        (
            "/v1/images/generations",
            {"prompt": "four" * 100},
            {"created": 1, "data": [{"b64_json": PICTURE}], "usage": {"input_tokens": 0, "output_tokens": 0}},
        ),
    ],
    ids=["embeddings", "images"],
)
def test_what_has_no_text_is_not_free_either(
    gateway: RunningGateway, provider: AnsweringProvider, path: str, fields: dict[str, Any], answer: dict[str, Any]
) -> None:
    assert charged(gateway, provider, Answer(answer), path=path, **fields)[2] >= 100 * INPUT
