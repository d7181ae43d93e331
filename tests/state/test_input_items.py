"""input_items: the input that a response was made from, as it was resolved, less what was deleted since."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.state.answers import MODEL, answer
from tests.support.gateway import RunningGateway
from tests.support.post_only_provider import PostOnlyProvider


class Team:
    """One team, with a client of each gateway."""

    def __init__(self, provider: PostOnlyProvider, one: openai.OpenAI, two: openai.OpenAI) -> None:
        self.provider = provider
        self.one, self.two = one, two

    def ask(self, given: Any, previous: str | None = None, **fields: Any) -> str:
        """One turn, whose output is `<given>`. Returns its id."""
        text = given if isinstance(given, str) else given[0]["content"]
        self.provider.next(answer(f"<{text}>", f"gen_{text}"))
        chain: Any = {} if previous is None else {"previous_response_id": previous}
        identifier: str = self.one.responses.create(model=MODEL, input=given, **chain, **fields).id
        return identifier

    def listed(self, response_id: str, **query: Any) -> list[str]:
        """The texts of the list at the other gateway, read page by page; other items by their kind."""
        items = self.two.responses.input_items.list(response_id, limit=2, **{"order": "asc", **query})
        found: list[Any] = [item.to_dict() for item in items]
        assert len({item["id"] for item in found}) == len(found)
        return [item["content"][0]["text"] if item["type"] == "message" else item["type"] for item in found]


@pytest.fixture
def team(gateways: tuple[RunningGateway, RunningGateway], provider: PostOnlyProvider) -> Iterator[Team]:
    key = gateways[0].new_key()
    with gateways[0].sdk(key) as one, gateways[1].sdk(key) as two:
        yield Team(provider, one, two)


def test_each_turn_that_was_deleted_is_missing_and_no_other(team: Team) -> None:
    chain: list[str] = []
    for text in ("a", "b", "c", "d"):
        chain.append(team.ask(text, chain[-1] if chain else None))
    assert team.listed(chain[3]) == ["a", "<a>", "b", "<b>", "c", "<c>", "d"]
    team.one.responses.delete(chain[1])
    assert team.listed(chain[3]) == ["a", "<a>", "c", "<c>", "d"]
    assert team.listed(chain[3], order="desc") == ["d", "<c>", "c", "<a>", "a"]
    team.one.responses.delete(chain[0])
    assert team.listed(chain[3]) == ["c", "<c>", "d"]
    with pytest.raises(openai.BadRequestError, match=chain[1]):
        team.ask("e", chain[3])


def test_it_begins_at_the_latest_compaction_as_the_input_did(team: Team) -> None:
    first = team.ask("a")
    compacted = team.ask([{"role": "user", "content": "b"}, {"type": "compaction_trigger"}], first)
    assert team.listed(compacted) == ["a", "<a>", "b"]
    third = team.ask("c", compacted)
    assert len(team.provider.received[-1]["input"]) == 2
    assert team.listed(third) == ["compaction", "c"]
    fourth = team.ask("d", third)
    assert team.listed(fourth) == ["compaction", "c", "<c>", "d"]


def test_a_summary_before_an_output_stands_for_what_came_before_it(team: Team) -> None:
    first = team.ask("a")
    team.provider.next(answer("In short.", "gen_summary"))
    asked: Any = [{"type": "compaction", "compact_threshold": 0}]
    second = team.ask("b", first, context_management=asked)
    assert team.listed(second) == ["a", "<a>", "b"]
    assert team.listed(team.ask("c", second)) == ["compaction", "<b>", "c"]


def test_the_place_of_an_item_in_a_conversation_is_before_its_turn(team: Team) -> None:
    said: Any = [{"role": "user", "content": "before"}]
    conversation = team.one.conversations.create(items=said).id
    first = team.ask("a", conversation=conversation)
    assert team.listed(team.ask("b", first)) == ["before", "a", "<a>", "b"]
