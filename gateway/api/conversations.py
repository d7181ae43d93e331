"""/v1/conversations: lists of items that the gateway stores for a team.

These calls cost nothing and count against no limit. If the gateway keeps no state for any route, these paths do not
exist: 405.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Request, Response

from gateway.api.dependencies import Caller, caller_of, services_of
from gateway.api.json_bodies import json_answer, json_object
from gateway.api.unserved import INSTEAD, not_served
from gateway.errors import GatewayError
from gateway.ledger.refusals import operation_not_allowed
from gateway.protocol.operations import CONVERSATIONS, permits
from gateway.state.conversations import Conversations, check_number
from gateway.state.items import Item, as_items, kind_of
from gateway.state.lists import page

router = APIRouter(prefix="/v1/conversations")
MAX_METADATA_PAIRS: Final = 16
MAX_NAME_CHARACTERS: Final = 64
MAX_VALUE_CHARACTERS: Final = 512


async def permitted_caller(request: Request) -> Caller:
    """Returns the caller. Raises GatewayError `invalid_api_key`, `operation_not_allowed`."""
    caller = await caller_of(request)
    for scope, account in (("key", caller.key), ("team", caller.team)):
        if not permits(account.operations, CONVERSATIONS):
            raise operation_not_allowed(scope, CONVERSATIONS)
    return caller


Known = Annotated[Caller, Depends(permitted_caller)]


def conversations_of(request: Request) -> Conversations:
    """Returns the store of conversations. Raises GatewayError `method_not_allowed` if the gateway stores none."""
    handler = services_of(request).handler
    if handler.turns is None or not handler.snapshot.keeps_state:
        raise not_served(request.method, request.url.path, INSTEAD["conversations"])
    return handler.turns.conversations


Kept = Annotated[Conversations, Depends(conversations_of)]


@router.post("")
async def create(request: Request, caller: Known, kept: Kept) -> dict[str, Any]:
    """Creates a conversation with its first items."""
    if caller.team.id in services_of(request).settings.state.off_for_teams:
        raise GatewayError("not_allowed", "Nothing is kept of this team: it has no conversations.")
    async with json_object(request) as fields:
        items = await _items(request, caller, fields)
        return (await kept.create(caller.team.id, _metadata(fields), items)).resource()


@router.get("/{conversation_id}")
async def retrieve(conversation_id: str, caller: Known, kept: Kept) -> dict[str, Any]:
    """Returns one conversation, without its items."""
    return (await kept.read(caller.team.id, conversation_id)).resource()


@router.post("/{conversation_id}")
async def update(request: Request, conversation_id: str, caller: Known, kept: Kept) -> dict[str, Any]:
    """Replaces the metadata of a conversation and changes nothing else."""
    async with json_object(request) as fields:
        _require(fields, "metadata")
        return (await kept.update(caller.team.id, conversation_id, _metadata(fields))).resource()


@router.delete("/{conversation_id}")
async def delete(conversation_id: str, caller: Known, kept: Kept) -> dict[str, Any]:
    """Deletes a conversation and its items. The responses that were made in it stay."""
    await kept.delete(caller.team.id, conversation_id)
    return {"id": conversation_id, "object": "conversation.deleted", "deleted": True}


@router.post("/{conversation_id}/items")
async def add_items(request: Request, conversation_id: str, caller: Known, kept: Kept) -> Response:
    """Appends all given items in one step.

    OpenAI documents a limit of 20 items per call. The gateway takes more, because agents send a whole turn in one call.
    """
    async with json_object(request) as fields:
        _require(fields, "items")
        items = await _items(request, caller, fields, conversation_id)
        added = await kept.add(caller.team.id, conversation_id, items)
        ends = {"first_id": added[0]["id"] if added else None, "last_id": added[-1]["id"] if added else None}
        return await json_answer(request, {"object": "list", "data": added, **ends, "has_more": False})


@router.get("/{conversation_id}/items")
async def list_items(request: Request, conversation_id: str, caller: Known, kept: Kept) -> Response:
    """Returns a page of the items, the newest first unless `order=asc`."""
    found = await kept.read(caller.team.id, conversation_id)
    return await json_answer(request, page(found.listed(), request.scope["query_string"]))


@router.get("/{conversation_id}/items/{item_id}")
async def retrieve_item(request: Request, conversation_id: str, item_id: str, caller: Known, kept: Kept) -> Response:
    """Returns one item."""
    found = await kept.read(caller.team.id, conversation_id)
    for item in found.listed():
        if item["id"] == item_id:
            return await json_answer(request, item)
    raise _no_item(item_id)


@router.delete("/{conversation_id}/items/{item_id}")
async def delete_item(conversation_id: str, item_id: str, caller: Known, kept: Kept) -> dict[str, Any]:
    """Removes an item and returns the conversation, which OpenAI's clients expect."""
    found = await kept.read(caller.team.id, conversation_id)
    if not await kept.remove(caller.team.id, conversation_id, item_id):
        raise _no_item(item_id)
    return found.resource()


async def _items(
    request: Request, caller: Caller, fields: dict[str, Any], conversation_id: str | None = None
) -> list[Item]:
    """Returns the items to be added. References are replaced by the items that they name."""
    given, turns = fields.get("items"), services_of(request).handler.turns
    if given is not None and not isinstance(given, list):
        raise GatewayError("invalid_item", "'items' must be an array of items.", param="items")
    check_number(given or (), "items")
    if not all(isinstance(item, dict) and kind_of(item) for item in given or ()):
        raise GatewayError("invalid_item", "An item is an object with a type, or a message with a role.", param="items")
    items = as_items(given)
    if turns is None:
        return items
    return await turns.references.resolved(caller.team.id, items, (), conversation_id, param="items")


def _require(fields: dict[str, Any], name: str) -> None:
    if name not in fields:
        raise GatewayError("missing_field", f"The field {name!r} is required.", param=name)


def _metadata(fields: dict[str, Any]) -> dict[str, Any]:
    metadata = fields.get("metadata")
    if metadata is None:
        return {}
    fits = isinstance(metadata, dict) and len(metadata) <= MAX_METADATA_PAIRS
    if not fits or not all(_is_pair(name, value) for name, value in metadata.items()):
        raise GatewayError(
            "invalid_item",
            f"'metadata' must be an object of {MAX_METADATA_PAIRS} pairs at most: names of {MAX_NAME_CHARACTERS} "
            f"characters, and texts of {MAX_VALUE_CHARACTERS}.",
            param="metadata",
        )
    return dict(metadata)


def _is_pair(name: str, value: object) -> bool:
    return len(name) <= MAX_NAME_CHARACTERS and isinstance(value, str) and len(value) <= MAX_VALUE_CHARACTERS


def _no_item(item_id: str) -> GatewayError:
    return GatewayError("item_not_found", f"The conversation has no item {item_id!r}.", param="item_id")
