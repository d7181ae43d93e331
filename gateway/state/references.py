"""Resolves references: items that only name another item, by `item_reference` or by an id alone.

    await references.resolved(team_id, items, links, conversation)    the items, with each reference replaced

An id that occurs more than once names the latest item of the chain or the conversation, or else the team's latest
output item with this id.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from gateway.errors import GatewayError
from gateway.state.chain import Link
from gateway.state.conversations import Conversations
from gateway.state.items import Item, is_reference
from gateway.state.responses import ResponseStore


class References:
    """Resolves references. Raises GatewayError `item_not_found`."""

    def __init__(self, responses: ResponseStore, conversations: Conversations) -> None:
        self._responses = responses
        self._conversations = conversations

    async def resolved(
        self,
        team_id: str,
        items: Sequence[Item],
        links: Sequence[Link],
        conversation: str | None = None,
        *,
        passes_foreign_ids: bool = False,
        param: str = "input",
    ) -> list[Item]:
        """Returns the items of the field `param` without references. They follow `links` and `conversation`.

        `passes_foreign_ids`: a reference to an unknown item stays, because it may name an item of the provider.
        """
        if not any(map(is_reference, items)):
            return list(items)
        named = _named([pair for link in links for pair in zip(_items(link), link.listed(), strict=True)])
        if conversation is not None:
            kept = await self._conversations.read(team_id, conversation)  # includes the items before a compaction
            named = _named(zip(kept.items, kept.listed(), strict=True)) | named
        found = []
        for item in items:
            named_item = await self._found(team_id, item, named) if is_reference(item) else item
            if named_item is None and not passes_foreign_ids:
                raise GatewayError("item_not_found", f"The item {item.get('id')!r} is not stored here.", param=param)
            found.append(item if named_item is None else named_item)
        return found

    async def _found(self, team_id: str, item: Item, named: Mapping[str, Item]) -> Item | None:
        identifier = str(item.get("id"))
        found = named.get(identifier) or await self._responses.item(team_id, identifier)
        return None if found is None else dict(found)


def _named(pairs: Iterable[tuple[Item, Item]]) -> dict[str, Item]:
    """Returns items by the ids that lists give them, and by their own ids.

    `pairs` are the items, and the same items as lists show them, oldest first.
    """
    own = [(item, shown) for item, shown in pairs if not is_reference(item)]
    listed = {str(shown.get("id")): item for item, shown in own}
    return listed | {str(item["id"]): item for item, _ in own if isinstance(item.get("id"), str)}


def _items(link: Link) -> list[Item]:
    return [*link.input, *link.output]
