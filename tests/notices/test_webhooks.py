"""Notices that go to real HTTP servers: how they are signed, and what becomes of an attempt that fails."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator

import pytest
from standardwebhooks.webhooks import Webhook

from gateway.store.keyspace import NOTICES_WAITING
from tests.support.noticing import SECRET, NoticeParts, noticing, recipient
from tests.support.scripted_upstream import hang, request, send, serve
from tests.support.servers import Server
from tests.support.webhook_receiver import Received, WebhookReceiver, webhook_receiver

OTHER_SECRET = "whsec_" + "YW5vdGhlci1zZWNyZXQtb2YtMjQtYnl0ZXM="
OTHER_KEY = b"another-secret-of-24-bytes"


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    with webhook_receiver() as running:
        yield running


async def ended(parts: NoticeParts) -> list[tuple[str, int, str]]:
    """The notices that have ended, the oldest first: result, attempts, error."""
    found = await parts.notices.outbox.ended(1000)
    return [(one.result, one.notice.attempts, one.notice.error) for one in reversed(found)]


async def test_a_webhook_is_verified_by_the_library_of_standard_webhooks(
    store: Server, receiver: WebhookReceiver
) -> None:
    ops = recipient("ops", url=f"{receiver.url}/notices?to=me", keys=(OTHER_KEY, b"secret-of-24-bytes-or-more"))
    async with noticing(store.url, ops) as parts:
        team = await parts.new_team(credit=9)
        await parts.rounds_until(lambda: receiver.requests)
    [sent] = receiver.requests
    assert sent.path == "/notices?to=me"
    assert sent.headers["content-type"] == "application/json"
    for secret in (SECRET, OTHER_SECRET):
        body = Webhook(secret).verify(sent.body, sent.headers)
        assert body == sent.json
    with pytest.raises(Exception, match="No matching signature"):
        Webhook(SECRET).verify(sent.body + b" ", sent.headers)
    assert sent.json["type"] == "balance.low"
    assert sent.json["data"]["team"] == {"id": team.id, "name": team.name}
    assert (
        sent.json["data"]["text"] == f"Team {team.name} has 0.000000009 USD of credits left, less than 0.00000001 USD."
    )


async def test_the_form_of_slack_is_a_text_that_calls_nobody(store: Server, receiver: WebhookReceiver) -> None:
    slack = recipient("chat", url=receiver.url, form="slack", keys=())
    async with noticing(store.url, slack) as parts:
        await parts.new_team(name="<!channel> & co")
        await parts.rounds_until(lambda: receiver.requests)
    [sent] = receiver.requests
    assert set(sent.json) == {"text"}
    assert sent.json["text"].startswith("Team &lt;!channel&gt; &amp; co has 0 USD of credits left")
    assert "webhook-signature" not in sent.headers


async def test_what_fails_is_sent_again_under_its_id_with_growing_pauses(
    store: Server, receiver: WebhookReceiver
) -> None:
    receiver.answers = [500, 503, 404, 200]
    async with noticing(store.url, recipient("ops", url=receiver.url), retry_s=0.2) as parts:
        await parts.new_team()
        await parts.rounds_until(lambda: len(receiver.requests) == 4)
        await parts.rounds_until(lambda: parts.notices.results["ops", "sent"])
        assert await ended(parts) == [("sent", 4, "")]
    assert len({sent.id for sent in receiver.requests}) == 1
    assert len({sent.body for sent in receiver.requests}) == 1
    times = [sent.at_s for sent in receiver.requests]
    for gap, least_s in zip([b - a for a, b in itertools.pairwise(times)], (0.2, 0.4, 0.8), strict=True):
        assert gap >= least_s - 0.01
    assert parts.notices.results["ops", "failed"] == 3


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_not_followed(store: Server, receiver: WebhookReceiver, status: int) -> None:
    with webhook_receiver() as inside:
        receiver.answers = [status]
        receiver.headers = {"location": f"{inside.url}/internal"}
        async with noticing(store.url, recipient("ops", url=receiver.url), max_attempts=2) as parts:
            await parts.new_team()
            await parts.rounds_until(lambda: parts.notices.results["ops", "given_up"])
            assert await ended(parts) == [("failed", 2, f"status {status}: said")]
        assert inside.requests == []


async def test_what_is_gone_is_given_up_at_once(store: Server, receiver: WebhookReceiver) -> None:
    receiver.answers = [410]
    async with noticing(store.url, recipient("ops", url=receiver.url)) as parts:
        await parts.new_team()
        await parts.rounds_until(lambda: parts.notices.results["ops", "given_up"])
        assert await ended(parts) == [("failed", 1, "status 410: said")]


async def test_a_recipient_that_asks_for_a_pause_gets_it(store: Server, receiver: WebhookReceiver) -> None:
    receiver.answers, receiver.headers = [429], {"retry-after": "600"}
    async with noticing(store.url, recipient("ops", url=receiver.url)) as parts:
        await parts.new_team()
        await parts.rounds_until(lambda: parts.notices.results["ops", "failed"])
        [waiting] = await parts.notices.outbox.waiting(10)
        assert waiting.due_ms / 1000 > time.time() + 500
        assert waiting.notice.error == "status 429: said"


async def test_a_server_that_never_answers_ends_an_attempt_and_delays_no_other_recipient(
    store: Server, receiver: WebhookReceiver
) -> None:
    with webhook_receiver() as silent:
        release = threading.Event()

        def never(_: Received) -> None:
            release.wait(60)

        silent.before_answer = never
        both = (recipient("silent", url=silent.url), recipient("ops", url=receiver.url))
        async with noticing(store.url, *both, timeout_s=2, max_attempts=1) as parts:
            await parts.new_team()
            await parts.rounds_until(lambda: parts.notices.results["silent", "given_up"])
            found = {one.notice.recipient: one for one in await parts.notices.outbox.ended(10)}
        release.set()
    assert found["silent"].notice.error == "not done within 2 s"
    assert found["ops"].result == "sent"
    assert found["ops"].at_ms < found["silent"].at_ms


async def test_an_answer_that_never_ends_ends_an_attempt(store: Server) -> None:
    steps = [request(), send(b"HTTP/1.1 500 No\r\ncontent-length: 10\r\n\r\nbegun"), hang()]
    async with serve(steps) as endless:
        ops = recipient("ops", url=endless.url)
        async with noticing(store.url, ops, timeout_s=2, max_attempts=1) as parts:
            await parts.new_team()
            await parts.rounds_until(lambda: parts.notices.results["ops", "given_up"])
            assert (await ended(parts))[0][2] == "not done within 2 s"


async def test_an_address_where_nobody_listens_is_a_failure_and_no_fault(store: Server) -> None:
    async with noticing(store.url, recipient("ops", url="http://127.0.0.1:1/"), max_attempts=1) as parts:
        await parts.new_team()
        await parts.rounds_until(lambda: parts.notices.results["ops", "given_up"])
        [(result, _, error)] = await ended(parts)
        assert result == "failed"
        assert error.startswith("connect:")


async def test_while_a_recipient_fails_its_other_notices_wait_with_the_first(
    store: Server, receiver: WebhookReceiver
) -> None:
    receiver.answers = [500]
    async with noticing(store.url, recipient("ops", url=receiver.url), retry_s=600.0) as parts:
        for _ in range(5):
            await parts.new_team()
        await parts.rounds_until(lambda: receiver.requests)
        await parts.rounds(5)
        waiting = await parts.notices.outbox.waiting(10)
        # One that was put after the first attempt failed may have had an attempt of its own.
        assert len(receiver.requests) <= 2
        assert len(waiting) == 5
        assert sum(one.notice.attempts for one in waiting) == len(receiver.requests)
        receiver.answers = [200]


async def test_what_waits_is_bounded_and_what_found_no_room_is_found_again(
    store: Server, receiver: WebhookReceiver
) -> None:
    receiver.answers = [500]
    async with noticing(store.url, recipient("ops", url=receiver.url), max_waiting=2, retry_s=0.05) as parts:
        for _ in range(4):
            await parts.new_team()
        await parts.rounds_until(lambda: parts.notices.results["ops", "no_room"])
        assert int(store.run("HLEN", NOTICES_WAITING)) <= 2
        receiver.answers = [200]
        await parts.rounds_until(lambda: parts.notices.results["ops", "sent"] == 4)
        assert len(await ended(parts)) == 4


async def test_a_recipient_that_was_taken_out_of_the_configuration_is_not_sent_to(
    store: Server, receiver: WebhookReceiver
) -> None:
    receiver.answers = [500]
    other = recipient("other", url="http://127.0.0.1:1/", teams=frozenset({"none"}))
    async with noticing(store.url, recipient("ops", url=receiver.url), max_attempts=2) as parts:
        receiver.before_answer = lambda _: parts.change(recipients={"other": other})
        await parts.new_team()
        await parts.rounds_until(lambda: parts.notices.results["ops", "given_up"])
        assert (await ended(parts))[0][2] == "the configuration has no such recipient"


async def test_a_test_says_what_came_of_it(store: Server, receiver: WebhookReceiver) -> None:
    ops = recipient("ops", url=receiver.url)
    async with noticing(store.url, ops, run=False) as parts:
        assert await parts.notices.test(ops) == ""
        receiver.answers = [403]
        assert await parts.notices.test(ops) == "status 403: said"
        assert Webhook(SECRET).verify(receiver.requests[0].body, receiver.requests[0].headers)["type"] == "test"
        assert await parts.notices.outbox.waiting(10) == []


async def test_without_recipients_the_store_is_not_asked(store: Server) -> None:
    async with noticing(store.url) as parts:
        await parts.rounds(1)
        before = calls(store)
        await parts.rounds(5)
        assert calls(store) == before


def calls(store: Server) -> int:
    """The calls that the store has answered, other than those of this function."""
    info = store.run("INFO", "commandstats")
    assert isinstance(info, dict)
    mine = ("cmdstat_info", "cmdstat_hello", "cmdstat_client|setinfo")
    return sum(row["calls"] for name, row in info.items() if name not in mine)
