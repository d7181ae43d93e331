"""What a turn continues.

    past = await pasts.find(request, lock)        raises GatewayError; a conversation is locked with this name
    await pasts.context(team_id, record)          the items of a conversation before a response that was made in it

| the request names                        | what it continues                                             |
|------------------------------------------|---------------------------------------------------------------|
| a response that its connection remembers | that response                                                 |
| a stored response                        | its chain, and the conversation in which it was made, as that |
|                                          | was then                                                      |
| a conversation                           | its items since the latest compaction                         |
| what is not stored here and was not made | what its provider has: the id is passed on together with the  |
|   here, on a route with                  | input that follows                                            |
|   `foreign_ids = "pass"`                 |                                                               |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

from gateway.errors import GatewayError
from gateway.identity.api_keys import ApiKey
from gateway.state.chain import Link, last_compaction
from gateway.state.conversations import LOCK_LIFE_S, Conversations
from gateway.state.items import has_encrypted_reasoning
from gateway.state.own_ids import is_own
from gateway.state.records import StoredResponse
from gateway.state.responses import MissingResponse, ResponseStore, previous_not_found

PREVIOUS: Final = "previous_response_id"
CONVERSATION: Final = "conversation"


class ProviderBase(NamedTuple):
    """The beginning of a turn's past that only the provider has: a response, or a conversation."""

    member: str
    id: str

    @classmethod
    def read(cls, text: str) -> ProviderBase | None:
        """Reads the text in a record."""
        member, _, identifier = text.partition(" ")
        return cls(member, identifier) if identifier else None

    def text(self) -> str:
        """Returns the text for a record."""
        return f"{self.member} {self.id}"


class Recalled(NamedTuple):
    """What a connection remembers of a response. `base`: a response that precedes it and that the provider has."""

    link: Link
    base: str | None = None


Recall = Callable[[str], Recalled | None]
"""Returns what a connection remembers of a response that is not stored, by the response's id."""


@dataclass(frozen=True, slots=True)
class Past:
    """What a turn continues: `links`, oldest first, and the response or conversation that the request names.

    `stored`: the links can be read from the store. If they cannot, the stored response of the turn contains them.
    `maker`: the key that made the latest encrypted reasoning, see `StoredResponse`. `place`: the position of the
    conversation's last item. `base`, `base_maker`: the beginning that only the provider has, and the key that made it,
    or "" if that is unknown.
    """

    links: Sequence[Link] = ()
    parent: str | None = None
    conversation: str | None = None
    stored: bool = True
    maker: str = ""
    place: int = 0
    base: ProviderBase | None = None
    base_maker: str = ""


class PastRequest(Protocol):
    """A request, as far as it says what it continues.

    `passes_foreign_ids`: names of what its provider has may be sent on.
    """

    @property
    def key(self) -> ApiKey:
        """The key of the caller."""

    @property
    def fields(self) -> Mapping[str, Any]:
        """The fields of its body."""

    @property
    def recall(self) -> Recall | None:
        """Looks up a previous response before the store is read, or None."""

    @property
    def passes_foreign_ids(self) -> bool:
        """Whether ids of responses and items that the provider stores are passed on."""


class Pasts:
    """Finds what turns continue. Raises GatewayError."""

    def __init__(self, responses: ResponseStore, conversations: Conversations) -> None:
        self._responses = responses
        self._conversations = conversations

    async def find(self, request: PastRequest, lock: str) -> Past:
        """Returns the past. A conversation is locked, and the caller must unlock it."""
        previous, conversation = _named(request.fields)
        if previous is not None:
            return await self._find_response(request, previous)
        await self._responses.check(request.key)
        if conversation is None:
            return Past()
        team_id = request.key.team_id
        try:
            await self._conversations.lock(team_id, conversation, lock, LOCK_LIFE_S)
        except GatewayError as error:
            if error.code != "conversation_not_found" or not _may_be_the_providers(request, conversation):
                raise
            return Past(base=ProviderBase(CONVERSATION, conversation))
        try:
            found = await self._conversations.read(team_id, conversation)
        except BaseException:
            await self._conversations.unlock(team_id, conversation, lock)
            raise
        return Past([found.link()], conversation=conversation, place=found.last_place)

    async def context(self, team_id: str, record: StoredResponse) -> Link | None:
        """Returns the items of a conversation before a response that was made in it, or None.

        Raises GatewayError `conversation_not_found`.
        """
        identifier = _conversation_of(record)
        if identifier is None:
            return None
        return (await self._conversations.read(team_id, identifier)).link(record.place)

    async def _find_response(self, request: PastRequest, previous: str) -> Past:
        recalled = None if request.recall is None else request.recall(previous)
        if recalled is not None and (recalled.base is None or request.passes_foreign_ids):
            await self._responses.check(request.key)
            base = None if recalled.base is None else ProviderBase(PREVIOUS, recalled.base)
            return Past([recalled.link], parent=previous, stored=False, base=base)
        try:
            records = await self._responses.chain(request.key, previous)
        except MissingResponse as missing:
            if missing.response_id != previous or not _may_be_the_providers(request, previous):
                raise
            return Past(parent=previous, base=ProviderBase(PREVIOUS, previous))
        links = [Link(record.response_id, record.input, record.output) for record in records]
        makers = [record.maker for record in records if any(map(has_encrypted_reasoning, record.output))]
        root, base = records[0], None
        if last_compaction(root.output) is None:  # a compaction item replaces everything before it
            links = [*await self._conversation_before(request.key.team_id, root), *links]
            base = ProviderBase.read(root.base)
        if base is not None and base.member == CONVERSATION:
            raise GatewayError(
                "invalid_item",
                f"The response {previous!r} goes on from a conversation that its provider keeps: continue that.",
                param=PREVIOUS,
            )
        return Past(
            links, parent=previous, maker=makers[-1] if makers else "", base=base, base_maker=root.maker if base else ""
        )

    async def _conversation_before(self, team_id: str, root: StoredResponse) -> list[Link]:
        try:
            found = await self.context(team_id, root)
        except GatewayError as error:
            if error.code != "conversation_not_found":
                raise
            raise previous_not_found(_conversation_of(root) or "") from None
        return [] if found is None else [found]


def _may_be_the_providers(request: PastRequest, identifier: str) -> bool:
    """Whether what is not stored here may be named to the provider. See own_ids.py."""
    return request.passes_foreign_ids and not is_own(identifier)


def _conversation_of(record: StoredResponse) -> str | None:
    """Returns the conversation in which a response was made, if it had items before the response."""
    conversation = record.response.get(CONVERSATION)
    identifier = conversation.get("id") if isinstance(conversation, dict) else None
    return identifier if record.place and isinstance(identifier, str) else None


def _named(fields: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Returns the response and the conversation that a request names, of which at most one is set."""
    previous, conversation = fields.get(PREVIOUS), fields.get(CONVERSATION)
    if previous is not None and conversation is not None:
        raise GatewayError(
            "invalid_item", "'conversation' and 'previous_response_id' exclude each other.", param=CONVERSATION
        )
    if previous is not None and not isinstance(previous, str):
        raise GatewayError("invalid_item", "'previous_response_id' must be a string.", param=PREVIOUS)
    identifier = conversation.get("id") if isinstance(conversation, dict) else conversation
    if identifier is not None and not isinstance(identifier, str):
        raise _no_conversation()
    if conversation is not None and identifier is None:
        raise _no_conversation()
    return previous, identifier


def _no_conversation() -> GatewayError:
    return GatewayError("invalid_item", "'conversation' must be an id, or an object with one.", param=CONVERSATION)
