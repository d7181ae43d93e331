"""What the simulator says: derived from the request, always the same, and what the request asked for."""

import json
from collections.abc import Mapping
from typing import Any, Final

import pytest
from jsonschema import Draft202012Validator

from tests.simulator.client import WEATHER, Simulator, text_of

TIME: Final[Mapping[str, Any]] = {
    "type": "function",
    "name": "get_time",
    "parameters": {"type": "object", "properties": {}},
}


def test_the_same_request_gets_the_same_text(simulator: Simulator) -> None:
    first, second = (simulator.answer("o4-mini", "Tell me a story") for _ in range(2))
    assert text_of(first) == text_of(second)
    assert first["id"] != second["id"]


def test_the_text_says_that_it_is_simulated_and_echoes_the_last_user_message(simulator: Simulator) -> None:
    turns = [
        {"role": "user", "content": "First question"},
        {"type": "message", "role": "assistant", "content": "First answer"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Second question"}]},
    ]
    text = text_of(simulator.answer("openai/gpt-5.2", turns))
    assert "simulator" in text
    assert "openai/gpt-5.2" in text
    assert "Second question" in text
    assert "First question" not in text


def test_images_are_counted_and_files_are_named(simulator: Simulator) -> None:
    image = {"type": "input_image", "image_url": "https://example.com/a.png"}
    files = [
        {"type": "input_file", "filename": "report.pdf", "file_data": "data:application/pdf;base64,AAAA"},
        {"type": "input_file", "file_url": "https://example.com/data/table.csv"},
    ]
    text = text_of(simulator.answer("m", [{"role": "user", "content": [image, image, *files]}]))
    assert "2 images" in text
    assert "report.pdf, table.csv" in text


def test_a_token_budget_ends_the_answer_as_incomplete(simulator: Simulator) -> None:
    answer = simulator.answer("o4-mini", max_output_tokens=7)
    assert answer["status"] == "incomplete"
    assert answer["incomplete_details"] == {"reason": "max_output_tokens"}
    assert answer["usage"]["output_tokens"] == 7
    assert simulator.answer("o4-mini", max_output_tokens=1000)["status"] == "completed"


@pytest.mark.parametrize(
    ("prompt", "fields", "called"),
    [
        ("What is the weather in Paris?", {}, ["get_weather"]),
        ("Weather and time, please", {}, ["get_weather", "get_time"]),
        ("Weather and time, please", {"parallel_tool_calls": False}, ["get_weather"]),
        ("Use a tool", {}, ["get_weather"]),
        ("Good morning", {}, []),
        ("Good morning", {"tool_choice": "required"}, ["get_weather"]),
        ("Good morning", {"tool_choice": {"type": "function", "name": "get_time"}}, ["get_time"]),
        ("What is the weather in Paris?", {"tool_choice": "none"}, []),
        (
            "What is the weather and the time?",
            {"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"name": "get_time"}]}},
            ["get_time"],
        ),
    ],
)
def test_tools_are_called_when_the_prompt_or_the_choice_asks(
    simulator: Simulator, prompt: str, fields: dict[str, object], called: list[str]
) -> None:
    answer = simulator.answer("m", prompt, tools=[WEATHER, TIME], **fields)
    assert [item["name"] for item in answer["output"] if item["type"] == "function_call"] == called
    assert bool(text_of(answer)) is not bool(called)


def test_arguments_satisfy_the_tools_schema_and_take_a_word_from_the_prompt(simulator: Simulator) -> None:
    answer = simulator.answer("m", "What is the weather in Paris?", tools=[WEATHER])
    arguments = json.loads(answer["output"][0]["arguments"])
    Draft202012Validator(WEATHER["parameters"]).validate(arguments)
    assert arguments["city"] == "Paris"


def test_a_function_result_is_used_in_the_text(simulator: Simulator) -> None:
    call = {"type": "function_call", "call_id": "call_1", "name": "get_weather", "arguments": "{}"}
    result = {"type": "function_call_output", "call_id": "call_1", "output": "It is 21 degrees"}
    turns = [{"role": "user", "content": "The weather?"}, call, result]
    answer = simulator.answer("m", turns, tools=[WEATHER], tool_choice="required")
    assert "It is 21 degrees" in text_of(answer)


def test_a_new_question_after_a_function_result_is_a_new_call(simulator: Simulator) -> None:
    result = {"type": "function_call_output", "call_id": "call_1", "output": "It is 21 degrees"}
    turns = [{"role": "user", "content": "The weather?"}, result, {"role": "user", "content": "Weather in Rome?"}]
    assert simulator.answer("m", turns, tools=[WEATHER])["output"][0]["name"] == "get_weather"


def test_input_tokens_grow_with_input_instructions_tools_and_the_conversation_before(simulator: Simulator) -> None:
    def count(**fields: object) -> int:
        return int(simulator.answer("m", "Hello, world!", **fields)["usage"]["input_tokens"])

    first = simulator.answer("m", "Hello, world!")
    plain = count()
    assert count(instructions="Be short, be kind") > plain
    assert count(tools=[WEATHER]) > plain
    assert count(previous_response_id=first["id"]) == plain + first["usage"]["total_tokens"]
    counted = simulator.http.post("/v1/responses/input_tokens", json={"model": "m", "input": "Hello, world!"}).json()
    assert counted == {"object": "response.input_tokens", "input_tokens": plain}
