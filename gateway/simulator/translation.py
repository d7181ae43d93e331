"""Other APIs' requests as a request for a response, so that one plan (plan.py) answers all of them alike.

chat completions  messages, tools, response_format, max_completion_tokens  ->  items, tools, text.format, ...
completions       prompt                                                   ->  one user message
messages          messages, system, tools, max_tokens                      ->  items, instructions, tools, ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import orjson

from gateway.simulator.behaviours import BadModel, behaviour_of
from gateway.simulator.request import JsonObject, ProviderError, Request

_MAX_CHOICES: Final = 16


def chat_request(fields: JsonObject) -> Request:
    """Translates a chat completion's request. Raises `ProviderError`."""
    items = [item for message in _objects(fields, "messages") for item in _chat_items(message)]
    wanted = fields.get("response_format")
    tools = [_chat_tool(tool) for tool in _objects(fields, "tools", required=False)]
    translated: JsonObject = {
        "tools": tools,
        "tool_choice": _chat_choice(fields.get("tool_choice")),
        "parallel_tool_calls": fields.get("parallel_tool_calls"),
        "text": {"format": _chat_format(wanted)} if isinstance(wanted, dict) else None,
    }
    max_tokens = fields.get("max_completion_tokens") or fields.get("max_tokens")
    return _request(fields, items, translated, max_tokens)


def text_request(fields: JsonObject, prompt: str) -> Request:
    """Translates a completion's request for one of its prompts. Raises `ProviderError`."""
    return _request(fields, [_message("user", prompt)], {}, fields.get("max_tokens"))


def messages_request(fields: JsonObject) -> Request:
    """Translates a message's request. Raises `ProviderError`."""
    items = [item for message in _objects(fields, "messages") for item in _message_items(message)]
    tools = [
        {"type": "function", "name": tool.get("name"), "parameters": tool.get("input_schema")}
        for tool in _objects(fields, "tools", required=False)
        if "input_schema" in tool
    ]
    translated: JsonObject = {
        "tools": tools,
        "tool_choice": _message_choice(fields.get("tool_choice")),
        "instructions": "\n".join(_texts(fields.get("system"))) or None,
        "text": _message_format(fields),
    }
    return _request(fields, items, translated, fields.get("max_tokens"))


def choices_of(fields: JsonObject, name: str = "n") -> int:
    """Returns how many choices a request asks for. Raises `ProviderError`."""
    value = 1 if fields.get(name) is None else fields[name]
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _MAX_CHOICES:
        raise ProviderError("invalid_field", f"{name} must be a whole number from 1 to {_MAX_CHOICES}", param=name)
    return value


def model_of(fields: Mapping[str, Any], default: str = "") -> str:
    """Returns the model that a request names. Raises `ProviderError`."""
    model = fields.get("model") or default
    if not isinstance(model, str) or not model:
        raise ProviderError("missing_field", "model is required", param="model")
    return model


def _request(fields: JsonObject, items: list[JsonObject], translated: JsonObject, max_tokens: object) -> Request:
    model = model_of(fields)
    try:
        behaviour = behaviour_of(model)
    except BadModel as error:
        raise ProviderError("invalid_field", str(error), param="model") from error
    if max_tokens is not None and (not isinstance(max_tokens, int) or isinstance(max_tokens, bool) or max_tokens < 1):
        raise ProviderError("invalid_field", "The bound on tokens must be a positive integer", param="max_tokens")
    return Request(
        model=model,
        behaviour=behaviour,
        stream=fields.get("stream") is True,
        background=False,
        store=False,
        max_output_tokens=max_tokens,
        items=tuple(items),
        fields={"model": model, **{name: value for name, value in translated.items() if value is not None}},
    )


def _objects(fields: JsonObject, name: str, *, required: bool = True) -> list[JsonObject]:
    value = fields.get(name)
    if value is None and not required:
        return []
    if value is None:
        raise ProviderError("missing_field", f"{name} is required", param=name)
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise ProviderError("invalid_field", f"{name} must be an array of objects", param=name)
    return value


def _message(role: str, content: object) -> JsonObject:
    return {"type": "message", "role": role, "content": content}


def _texts(content: object) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    for part in content if isinstance(content, list) else ():
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            yield part["text"]


def _chat_items(message: JsonObject) -> Iterator[JsonObject]:
    role = message.get("role")
    if role == "tool":
        output = " ".join(_texts(message.get("content")))
        yield {"type": "function_call_output", "call_id": message.get("tool_call_id"), "output": output}
        return
    yield _message(str(role), _parts(message.get("content"), _chat_part))
    for call in message.get("tool_calls") or ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            yield {"type": "function_call", "call_id": call.get("id"), **function}


def _parts(content: object, part_of: Callable[[JsonObject], JsonObject]) -> object:
    if not isinstance(content, list):
        return content
    return [part_of(part) for part in content if isinstance(part, dict)]


def _chat_part(part: JsonObject) -> JsonObject:
    kind = part.get("type")
    if kind == "image_url":
        return {"type": "input_image"}
    if kind in ("file", "input_audio"):
        file = part.get(str(kind))
        name = file.get("filename") if isinstance(file, dict) else None
        return {"type": "input_file", "filename": name or kind}
    return {"type": "input_text", "text": part.get("text")}


def _chat_tool(tool: JsonObject) -> JsonObject:
    function = tool.get("function")
    return {"type": "function", **function} if isinstance(function, dict) else tool


def _chat_choice(choice: object) -> object:
    if not isinstance(choice, dict):
        return choice
    function = choice.get("function")
    return {"type": "function", "name": function.get("name")} if isinstance(function, dict) else "auto"


def _chat_format(wanted: JsonObject) -> JsonObject:
    schema = wanted.get("json_schema")
    return {"type": "json_schema", **schema} if isinstance(schema, dict) else wanted


def _message_items(message: JsonObject) -> Iterator[JsonObject]:
    content = message.get("content")
    blocks = [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []
    said = [block for block in blocks if block.get("type") not in ("tool_use", "tool_result")]
    if said or not blocks:
        yield _message(str(message.get("role")), _parts(said, _message_part) if blocks else content)
    for block in blocks:
        if block.get("type") == "tool_use":
            arguments = orjson.dumps(block.get("input")).decode()
            yield {"type": "function_call", "call_id": block.get("id"), "arguments": arguments}
        elif block.get("type") == "tool_result":
            output = " ".join(_texts(block.get("content")))
            yield {"type": "function_call_output", "call_id": block.get("tool_use_id"), "output": output}


def _message_part(block: JsonObject) -> JsonObject:
    if block.get("type") == "image":
        return {"type": "input_image"}
    if block.get("type") == "document":
        return {"type": "input_file", "filename": block.get("title")}
    return {"type": "input_text", "text": block.get("text")}


def _message_format(fields: JsonObject) -> JsonObject | None:
    """Returns the form of a structured answer (Anthropic's API reference, Structured outputs)."""
    config = fields.get("output_config")
    wanted = config.get("format") if isinstance(config, dict) else fields.get("output_format")
    return {"format": {"name": "output", **wanted}} if isinstance(wanted, dict) else None


def _message_choice(choice: object) -> object:
    kind = choice.get("type") if isinstance(choice, dict) else None
    if isinstance(choice, dict) and kind == "tool":
        return {"type": "function", "name": choice.get("name")}
    return "required" if kind == "any" else kind
