"""What a turn continues.

    past = await pasts.find(request, lock)        raises GatewayError; a conversation is locked under this name
    await pasts.context(team_id, record)          what a response that was made in a conversation goes on from

| the request names                        | is continued from                                             |
|------------------------------------------|---------------------------------------------------------------|
| a response that its connection remembers | that                                                          |
| a stored response                        | its chain; of one made in a conversation, what that held then |
| a conversation                           | its items, since the latest compaction                        |
| what is not stored here, on a route with | its provider's: the name is sent on, with what comes after    |
|   `foreign_ids = "pass"`                 | it                                                            |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

from gateway.errors import GatewayError
from gateway.identity.api_keys import ApiKey
from gateway.state.chain import Link, last_compaction
from gateway.state.conversations import LOCK_LIFE_S, Conversations
from gateway.state.items import has_blob
from gateway.state.records import StoredResponse
from gateway.state.responses import MissingResponse, ResponseStore, previous_not_found

PREVIOUS: Final = "previous_response_id"
CONVERSATION: Final = "conversation"


class Base(NamedTuple):
    """What only the provider has of a turn's past, before everything else: a response, or a conversation."""

    member: str
    id: str

    @classmethod
    def read(cls, text: str) -> Base | None:
        """Returns what a record says of it."""
        member, _, identifier = text.partition(" ")
        return cls(member, identifier) if identifier else None

    def text(self) -> str:
        """Returns it as a record has it."""
        return f"{self.member} {self.id}"


class Recalled(NamedTuple):
    """What a connection remembers of a response. `base`: a response of the provider's that comes before it."""

    link: Link
    base: str | None = None


Recall = Callable[[str], Recalled | None]
"""Returns what a connection remembers of a response that is not stored, by the response's id."""


@dataclass(frozen=True, slots=True)
class Past:
    """What a turn continues: `links`, oldest first, and the response or conversation that the request named.

    `stored` means that the links can be read from the store. If they cannot, a response that is stored holds them too.
    `maker`: who made the latest reasoning in encrypted form, see `StoredResponse`. `place`: that of the conversation's
    last item. `base_maker`: who has what comes before the links; "" if that is not known.
    """

    links: Sequence[Link] = ()
    parent: str | None = None
    conversation: str | None = None
    stored: bool = True
    maker: str = ""
    place: int = 0
    base: Base | None = None
    base_maker: str = ""


class Asked(Protocol):
    """A request, as far as it says what it continues. `passes`: names of what its provider has may be sent on."""

    @property
    def key(self) -> ApiKey:
        """Whose it is."""

    @property
    def fields(self) -> Mapping[str, Any]:
        """The fields of its body."""

    @property
    def recall(self) -> Recall | None:
        """Where a previous response is looked for before the store is asked."""

    @property
    def passes(self) -> bool:
        """Whether ids of what is stored at the provider may be sent on."""


class Pasts:
    """Finds what turns continue. Raises GatewayError."""

    def __init__(self, responses: ResponseStore, conversations: Conversations) -> None:
        self._responses = responses
        self._conversations = conversations

    async def find(self, asked: Asked, lock: str) -> Past:
        """Returns the past. If it is a conversation, it is locked, and to be unlocked."""
        previous, conversation = _named(asked.fields)
        if previous is not None:
            return await self._of_response(asked, previous)
        await self._responses.check(asked.key)
        if conversation is None:
            return Past()
        team_id = asked.key.team_id
        try:
            await self._conversations.lock(team_id, conversation, lock, LOCK_LIFE_S)
        except GatewayError as error:
            if error.code != "conversation_not_found" or not asked.passes:
                raise
            return Past(base=Base(CONVERSATION, conversation))
        try:
            found = await self._conversations.read(team_id, conversation)
        except BaseException:
            await self._conversations.unlock(team_id, conversation, lock)
            raise
        return Past([found.link()], conversation=conversation, place=found.last_place)

    async def context(self, team_id: str, record: StoredResponse) -> Link | None:
        """Returns what the conversation in which a response was made held before it; None if there is none.

        Raises GatewayError `conversation_not_found`.
        """
        identifier = _conversation_of(record)
        if identifier is None:
            return None
        return (await self._conversations.read(team_id, identifier)).link(record.place)

    async def _of_response(self, asked: Asked, previous: str) -> Past:
        recalled = None if asked.recall is None else asked.recall(previous)
        if recalled is not None and (recalled.base is None or asked.passes):
            await self._responses.check(asked.key)
            base = None if recalled.base is None else Base(PREVIOUS, recalled.base)
            return Past([recalled.link], parent=previous, stored=False, base=base)
        try:
            records = await self._responses.chain(asked.key, previous)
        except MissingResponse as missing:
            if not asked.passes or missing.response_id != previous:
                raise
            return Past(parent=previous, base=Base(PREVIOUS, previous))
        links = [Link(record.response_id, record.input, record.output) for record in records]
        makers = [record.maker for record in records if any(map(has_blob, record.output))]
        root, base = records[0], None
        if last_compaction(root.output) is None:  # it stands for all that comes before it
            links, base = [*await self._before(asked.key.team_id, root), *links], Base.read(root.base)
        if base is not None and base.member == CONVERSATION:
            raise GatewayError(
                "invalid_item",
                f"The response {previous!r} goes on from a conversation that its provider keeps: continue that.",
                param=PREVIOUS,
            )
        return Past(
            links, parent=previous, maker=makers[-1] if makers else "", base=base, base_maker=root.maker if base else ""
        )

    async def _before(self, team_id: str, root: StoredResponse) -> list[Link]:
        try:
            found = await self.context(team_id, root)
        except GatewayError as error:
            if error.code != "conversation_not_found":
                raise
            raise previous_not_found(_conversation_of(root) or "") from None
        return [] if found is None else [found]


def _conversation_of(record: StoredResponse) -> str | None:
    """Returns the conversation in which a response was made, if that had items before it."""
    conversation = record.response.get(CONVERSATION)
    identifier = conversation.get("id") if isinstance(conversation, dict) else None
    return identifier if record.place and isinstance(identifier, str) else None


def _named(fields: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Returns the response and the conversation that a request names: one of them at most."""
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
