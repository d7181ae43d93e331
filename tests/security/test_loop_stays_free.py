"""While a large body is looked at, the others are served: what takes long does so off the loop, in short calls."""

from __future__ import annotations

import json
import select
import socket
import time

import pytest

from tests.support.answering_provider import Answer, AnsweringProvider
from tests.support.gateway import ADMIN_KEY, NewKey, RunningGateway, StartGateway
from tests.support.sockets import HEALTH, connected, head_of
from tests.support.waiting import wait_until_sync

VALUES = 800_000
SERVER = {"port": 0, "max_json_values": 3 * VALUES, "max_text_bytes": 32 * 1024 * 1024}
BODIES = {
    "lists": b'{"model":"m","input":[%b0]}' % (b"[]," * VALUES),
    "members": b'{"model":"m","input":"","metadata":{%b}}' % b",".join(b'"k%d":0' % at for at in range(VALUES)),
    "members that carry files": b'{"model":"m","input":[{%b"a":1}]}' % (b'"data":"x",' * VALUES),
    "escapes": b'{"model":"m","input":"%b"}' % (b"\\u0041" * 4_000_000),
    "names in a text": b'{"model":"m","input":"%b"}' % (b'\\"model\\":' * 2_000_000),
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_others_are_served_while_a_large_body_is_looked_at(start: StartGateway, body: bytes) -> None:
    with start(server=SERVER) as gateway:
        count, status = answered_meanwhile(gateway, gateway.new_key(), body)
    assert status == 200
    assert count > 10, "of dozens; on the loop it would be up to four"


def answered_meanwhile(
    gateway: RunningGateway, key: NewKey, body: bytes, path: str = "/v1/responses"
) -> tuple[int, int]:
    """How often somebody else was answered between a body's last byte and its answer, and that answer's status."""
    head = head_of("POST", path, key.text, f"content-length: {len(body)}", "x-gateway-dry-run: true")
    with connected(gateway, 2) as (heavy, other):
        heavy.sendall(head + body[:-1])
        for _ in range(100):  # in which the loop reads what the system still holds of it
            ask(other)
        heavy.sendall(body[-1:])
        count = 0
        while not select.select([heavy], [], [], 0)[0]:
            ask(other)
            count += 1
        return count, int(heavy.recv(65_536).split(b" ")[1])


USAGE = {"input_tokens": 10, "output_tokens": 20, "total_tokens": 30}
ANSWER = b'{"id":"resp_1","object":"response","status":"completed","output":[%b0],"usage":%b}' % (
    b"[]," * 800_000,
    json.dumps(USAGE).encode(),
)


def test_others_are_served_while_a_large_answer_is_looked_at(start: StartGateway) -> None:
    with (
        AnsweringProvider.serving(lambda _: Answer(ANSWER)) as provider,
        start(upstream={"base_url": provider.url}) as gateway,
        connected(gateway, 2) as (heavy, other),
    ):
        key = gateway.new_key()
        body = b'{"model":"m","input":"x"}'
        heavy.sendall(head_of("POST", "/v1/responses", key.text, f"content-length: {len(body)}") + body)
        assert provider.sent.wait(20)
        count = 0
        while not select.select([heavy], [], [], 0)[0]:
            ask(other)
            count += 1
        assert count > 10, "of dozens; on the loop it would be up to four"
        before, _, answer = heavy.recv(65_536).partition(b"\r\n\r\n")
        while len(answer) < len(ANSWER):
            answer += heavy.recv(1 << 20)
        assert before.startswith(b"HTTP/1.1 200 ")
        assert answer == ANSWER
        wait_until_sync(lambda: gateway.balance(key).spent == (10 + 20 * 10) * 1000, what="its usage is charged")


def test_others_are_served_while_the_admin_apis_description_is_made(start: StartGateway) -> None:
    count = 0
    with start() as gateway:
        for _ in range(3):
            with connected(gateway, 2) as (heavy, other):
                ask(other)
                heavy.sendall(head_of("GET", "/admin/v1/openapi.json", ADMIN_KEY))
                while not select.select([heavy], [], [], 0)[0]:
                    ask(other)
                    count += 1
                assert heavy.recv(65_536).startswith(b"HTTP/1.1 200 ")
    assert count > 10, "of two dozen; on the loop it would be up to six"


def test_a_large_event_passes_unchanged_and_its_usage_is_charged(start: StartGateway) -> None:
    event = b'data: {"type":"response.completed","response":%b}\n\ndata: [DONE]\n\n' % ANSWER
    with (
        AnsweringProvider.serving(lambda _: Answer(events=[event])) as provider,
        start(upstream={"base_url": provider.url}) as gateway,
        gateway.http(key := gateway.new_key()) as http,
    ):
        answer = http.post("/v1/responses", json={"model": "m", "input": "x", "stream": True}, timeout=60)
        assert answer.content == event
        wait_until_sync(lambda: gateway.balance(key).spent == (10 + 20 * 10) * 1000, what="its usage is charged")


EVENTS = 60_000
BURSTS = {
    "/v1/responses": (
        b'{"model":"m","input":"x","stream":true}',
        b'data: {"type":"response.output_item.done","item":{"type":"message","content":[]}}\n\n',
        b'data: {"type":"response.completed","response":%b}\n\n'
        % json.dumps({"id": "resp_1", "usage": USAGE}).encode(),
    ),
    "/v1/chat/completions": (
        b'{"model":"m","messages":[{"role":"user","content":"x"}],"stream":true}',
        b'data: {"choices":[{"index":1,"delta":{"content":"word "}}]}\n\n',
        b'data: {"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":20}}\n\ndata: [DONE]\n\n',
    ),
}


@pytest.mark.parametrize("state", ["upstream", "gateway"])
@pytest.mark.parametrize("path", BURSTS)
def test_a_burst_of_events_passes_in_slices_of_which_each_turn_of_the_loop_has_one(
    start: StartGateway, path: str, state: str
) -> None:
    body, event, end = BURSTS[path]
    with (
        AnsweringProvider.serving(lambda _: Answer(events=[event * EVENTS + end])) as provider,
        start(upstream={"base_url": provider.url}, route={"state": state}) as gateway,
        gateway.http(key := gateway.new_key()) as http,
    ):
        steps = gateway.run(watched(gateway))
        answer = http.post(path, content=body, timeout=60)
        assert answer.content.count(b"data: ") >= EVENTS
        wait_until_sync(lambda: gateway.balance(key).spent == (10 + 20 * 10) * 1000, what="its usage is charged")
        assert sum(steps) > len(event) * EVENTS * 0.9, "all but what went out with the end"
        assert max(steps) <= 2 * 16 * 1024, "two slices at most; read by read it would be megabytes"


async def watched(gateway: RunningGateway) -> list[int]:
    """How many bytes answers pass on in each turn of the loop, from now on."""
    steps, before = [0], [0]

    def look() -> None:
        passed = sum(relay.exchange.client.bytes_out for relay in gateway.services.handler.running.values())
        steps.append(max(0, passed - before[0]))
        before[0] = passed
        gateway.loop.call_soon(look)

    look()
    return steps


TEXT = "0123456789abcdef" * 200_000
KEPT = json.dumps(
    {
        "id": "resp_1",
        "object": "response",
        "status": "completed",
        "output": [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": TEXT}]}],
        "usage": USAGE,
    }
).encode()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_others_are_served_while_a_large_response_is_kept_and_continued(start: StartGateway, stream: bool) -> None:
    event = b'data: {"type":"response.completed","response":%b}\n\n' % KEPT
    with (
        AnsweringProvider.serving(lambda _: Answer(events=[event]) if stream else Answer(KEPT)) as provider,
        start(upstream={"base_url": provider.url}, route={"state": "gateway"}) as gateway,
        connected(gateway, 2) as (heavy, other),
        gateway.http(key := gateway.new_key()) as http,
    ):
        fields: dict[str, object] = {"model": "m", "input": TEXT, "stream": stream}
        first = http.post("/v1/responses", json={**fields, "stream": False} if not stream else fields, timeout=60)
        assert first.status_code == 200
        made = first.text.partition('"id":"resp_')[2] or first.text.partition('"id": "resp_')[2]
        body = json.dumps({**fields, "input": "more", "previous_response_id": f"resp_{made.partition(chr(34))[0]}"})
        head = head_of("POST", "/v1/responses", key.text, f"content-length: {len(body)}", "connection: close")
        heavy.sendall(head + body.encode())
        longest_s, began_s, answer = 0.0, time.monotonic(), b""
        count = 0
        while not select.select([heavy], [], [], 0)[0]:
            ask(other)
            longest_s, began_s, count = max(longest_s, time.monotonic() - began_s), time.monotonic(), count + 1
        assert count > 20, f"of hundreds; on the loop it would be a few, with {longest_s:.3f} s between two"
        while data := heavy.recv(1 << 20):
            answer += data
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.count(TEXT.encode()) >= 1


def ask(client: socket.socket) -> None:
    client.sendall(HEALTH)
    answer = b""
    while not answer.endswith(b'{"status":"ok"}'):  # head and body may come apart
        answer += client.recv(4096)
        assert b"HTTP/1.1 200 ".startswith(answer[:13])
