"""The OpenResponses specification (2026-04-24), for validating answers.

`validate("ResponseResource", answer)` raises `jsonschema.ValidationError`. The document is OpenAPI: a validator ignores
`discriminator` and `example`, and unions stay exclusive because each member's `type` is an enum of one.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

_FILE = Path(__file__).parents[1] / "data" / "openresponses-2026-04-24.json"


@cache
def specification() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(_FILE.read_text(encoding="utf-8"))
    return document


@cache
def _validator(name: str) -> Draft202012Validator:
    return Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": specification()["components"]})


def validate(name: str, instance: object) -> None:
    """Validates `instance` against the schema component `name`."""
    _validator(name).validate(instance)


@cache
def event_schemas() -> dict[str, str]:
    """Returns the name of the schema of every event type that a stream may contain."""
    answer = specification()["paths"]["/responses"]["post"]["responses"]["200"]
    names = [entry["$ref"].rpartition("/")[2] for entry in answer["content"]["text/event-stream"]["schema"]["oneOf"]]
    schemas = specification()["components"]["schemas"]
    return {schemas[name]["properties"]["type"]["enum"][0]: name for name in names}


def validate_message(message: dict[str, Any]) -> None:
    """Validates one message of WebSocket mode: an event of a stream, or an error with its status."""
    event = {name: value for name, value in message.items() if name != "stream_id"}
    if event["type"] == "error":
        validate("WebSocketErrorEvent", event)
    else:
        validate_event(event)


def validate_event(event: dict[str, Any]) -> None:
    """Validates one streamed event against the schema of its type. An unknown type raises KeyError."""
    validate(event_schemas()[event["type"]], event)
