"""Reads prompts and writes replies: what the input contains, what to answer, and what a token is.

A token is a piece of text of at most 12 letters with the white space before it. Joining the tokens gives the text
again. Input tokens are counted as four UTF-8 bytes each, an image as 85.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from gateway.simulator.request import JsonObject, Request

_TOKEN: Final = re.compile(r"\s*\w{1,12}|\s*[^\w\s]|\s+")
_CAPITALISED: Final = re.compile(r"(?<=\s)[A-Z][\w-]+")
_ECHO_CHARACTERS: Final = 200
_BYTES_PER_TOKEN: Final = 4
_TOKENS_PER_IMAGE: Final = 85


@dataclass(frozen=True, slots=True)
class Prompt:
    """The content of the input: the last user text, attachments, and the tool outputs after that text."""

    user_text: str
    images: int
    files: tuple[str, ...]
    tool_outputs: tuple[str, ...]
    input_tokens: int


def tokens_of(text: str) -> list[str]:
    """Split a text into tokens; `"".join` is the inverse."""
    return _TOKEN.findall(text)


def read_prompt(items: Sequence[JsonObject], fields: JsonObject) -> Prompt:
    """Reads the input's items. `fields` adds instructions and tools to the token count."""
    user_text = ""
    files: list[str] = []
    outputs: list[str] = []
    images = 0
    size_bytes = len(str(fields.get("instructions") or "").encode())
    if fields.get("tools"):
        size_bytes += len(orjson.dumps(fields["tools"]))
    for item in items:
        is_output = item.get("type") == "function_call_output"
        texts: list[str] = []
        for part in _parts(item.get("output" if is_output else "content")):
            kind = part.get("type")
            if kind == "input_image":
                images += 1
            elif kind == "input_file":
                files.append(_file_name(part))
                size_bytes += len(str(part.get("file_data") or ""))
            elif isinstance(part.get("text"), str):
                texts.append(part["text"])
        text = " ".join(texts)
        size_bytes += len(text.encode()) + len(str(item.get("arguments") or "").encode())
        if is_output:
            outputs.append(text)
        elif item.get("role") == "user":
            user_text, outputs = text, []
    tokens = -(-size_bytes // _BYTES_PER_TOKEN) + images * _TOKENS_PER_IMAGE
    return Prompt(user_text, images, tuple(files), tuple(outputs), max(1, tokens))


def _parts(content: Any) -> Iterator[JsonObject]:
    if isinstance(content, str):
        yield {"type": "input_text", "text": content}
    elif isinstance(content, list):
        yield from (part for part in content if isinstance(part, dict))


def _file_name(part: JsonObject) -> str:
    for field in ("filename", "file_url", "file_id"):
        if isinstance(part.get(field), str) and part[field]:
            return str(part[field]).rstrip("/").rpartition("/")[2]
    return "without a name"


def _shortened(text: str) -> str:
    return text if len(text) <= _ECHO_CHARACTERS else text[:_ECHO_CHARACTERS] + "..."


def reply(request: Request, prompt: Prompt) -> str:
    """Returns the text of an answer. It says that this is the simulator, and what it received."""
    sentences = [f"This is the simulator, answering as {request.model}."]
    if prompt.user_text:
        sentences.append(f'You said: "{_shortened(prompt.user_text)}".')
    if prompt.images:
        sentences.append(f"I see {prompt.images} image{'s' if prompt.images > 1 else ''}.")
    if prompt.files:
        sentences.append(f"I have the file{'s' if len(prompt.files) > 1 else ''} {', '.join(prompt.files)}.")
    sentences += [f"The tool answered: {_shortened(output)}." for output in prompt.tool_outputs]
    sentences.append("No model was called: these words are made from your request.")
    return " ".join(sentences)


def subject_of(text: str) -> str:
    """Returns a word for free strings: the first capitalised word after the first one, or `example`."""
    match = _CAPITALISED.search(text)
    return match[0] if match else "example"


def wanted_tools(request: Request, prompt: Prompt) -> list[JsonObject]:
    """Returns the function tools to call now: none if the input contains their outputs.

    `tool_choice` names, requires, permits or forbids tools. Otherwise a tool is called if the user's text contains a
    word of its name (`get_weather`: "weather"), or mentions tools or functions.
    """
    tools = {tool["name"]: tool for tool in request.fields.get("tools") or () if _is_function(tool)}
    choice = request.fields.get("tool_choice")
    mode: object = choice
    if isinstance(choice, dict):
        mode = choice.get("mode", "auto")
        if choice.get("type") == "allowed_tools":
            allowed = {entry.get("name") for entry in choice.get("tools") or ()}
            tools = {name: tool for name, tool in tools.items() if name in allowed}
        elif choice.get("type") == "function":
            tools = {name: tool for name, tool in tools.items() if name == choice.get("name")}
            mode = "required"
    if not tools or mode == "none" or prompt.tool_outputs:
        return []
    said = {word.lower() for word in re.findall(r"[A-Za-z]+", prompt.user_text)}
    chosen = [tool for name, tool in tools.items() if _words(name) & said or name.lower() in prompt.user_text.lower()]
    if not chosen and (mode == "required" or said & {"tool", "tools", "function", "functions"}):
        chosen = list(tools.values())[:1]
    return chosen if request.fields.get("parallel_tool_calls") is not False else chosen[:1]


def _is_function(tool: JsonObject) -> bool:
    return tool.get("type") == "function" and isinstance(tool.get("name"), str) and bool(tool["name"])


def _words(name: str) -> set[str]:
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)
    return {word.lower() for word in words if len(word) > 3}  # noqa: PLR2004 - get, set, and, of name no tool
