"""What goes upstream of a chain: every turn once, in order, and only what a provider that keeps nothing can take."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import GatewayError
from gateway.state.chain import Link, check_calls, resolve, resolve_parts
from gateway.state.items import Item, as_items, is_reference, shown, upstream_items, with_ids


def user(text: str) -> Item:
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


def answer(text: str, identifier: str = "msg_1") -> Item:
    content = [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]
    return {"type": "message", "id": identifier, "role": "assistant", "status": "completed", "content": content}


def call(call_id: str, kind: str = "function_call", **more: Any) -> Item:
    return {"type": kind, "call_id": call_id, "name": "f", "arguments": "{}", **more}


def output(call_id: str, kind: str = "function_call_output") -> Item:
    return {"type": kind, "call_id": call_id, "output": "1"}


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=6), st.integers(0, 3))
def test_each_turn_goes_upstream_once_and_in_order(sizes: list[tuple[int, int]], new: int) -> None:
    links, expected = [], []
    for turn, (inputs, outputs) in enumerate(sizes):
        given_, made = [user(f"{turn}-{n}") for n in range(inputs)], [answer(f"{turn}+{n}", "") for n in range(outputs)]
        links.append(Link(f"resp_{turn}", given_, made))
        expected += given_ + made
    last = [user(f"new-{n}") for n in range(new)]
    assert resolve(links, last) == expected + last


def test_what_is_older_than_the_latest_compaction_is_left_out_and_explicit_input_passes_as_given() -> None:
    compaction = {"type": "compaction", "id": "cmp_1", "encrypted_content": "x"}
    links = [Link("a", [user("old")], [answer("old")]), Link("b", [user("kept?")], [compaction, answer("after")])]
    again = {"type": "compaction", "encrypted_content": "y"}
    assert resolve(links, [user("new"), again]) == [compaction, answer("after"), user("new"), again]


def test_a_message_with_another_text_is_new_though_its_id_came_before() -> None:
    """Some clients, and some providers, number their messages anew in every turn."""
    first = {**user("one"), "id": "msg_0"}
    second = {**user("two"), "id": "msg_0"}
    links = [Link("resp_1", [first], [answer("1")]), Link("resp_2", [second], [answer("2")])]
    third = {"type": "message", "role": "user", "content": "three", "id": "msg_0"}
    again = {"type": "message", "role": "user", "content": "one", "id": "msg_0"}
    sent = resolve(links, [third, again, answer("1")])
    assert sent == [first, answer("1"), second, answer("2"), third]


def test_what_agents_send_again_is_taken_once() -> None:
    made = call("call_1", id="fc_1", status="completed")
    links = [Link("a", [user("q")], [made])]
    resent = [call("call_1"), output("call_1")]
    assert resolve(links, resent) == [user("q"), made, output("call_1")]
    assert resolve(links, [made, output("call_1")]) == [user("q"), made, output("call_1")]


@given(st.lists(st.lists(st.integers(0, 99), max_size=4), min_size=1, max_size=5))
def test_whatever_each_turn_sends_again_of_the_turns_before_is_taken_once(again: list[list[int]]) -> None:
    links: list[Link] = []
    said: list[Item] = []
    for turn, places in enumerate(again):
        repeated = [said[place % len(said)] for place in places if said]
        results = [output(f"call_{turn - 1}")] if turn else []
        asked, made = {**user(f"turn {turn}"), "id": f"msg_{turn}"}, call(f"call_{turn}", id=f"fc_{turn}")
        links.append(Link(f"resp_{turn}", [*repeated, *results, asked], [made]))
        said += [*results, asked, made]
    assert resolve(links, []) == said
    assert resolve_parts(links, said) == (said, [])
    check_calls([*said, output(f"call_{len(again) - 1}")])


@pytest.mark.parametrize(
    "items",
    [
        [],
        [call("a"), output("a")],
        [call("a"), call("b"), output("b"), output("a")],
        [call("a", "custom_tool_call"), output("a", "custom_tool_call_output")],
        [call("a", "computer_call"), output("a", "computer_call_output")],
        [call("a", "tool_search_call"), output("a", "tool_search_output")],
        [call("a", "local_shell_call", id="lsh_1"), {"type": "local_shell_call_output", "id": "lsh_1", "output": "x"}],
        [call("a", "local_shell_call", id="lsh_1"), {"type": "local_shell_call_output", "id": "a", "output": "x"}],
        [call("a", "local_shell_call", id="lsh_1"), output("a", "local_shell_call_output")],
        [call("p", "program")],
        [call("p", "program"), output("p", "program_output")],
        [{"type": "web_search_call", "id": "ws_1"}],
        [{"type": "mcp_call", "id": "mcp_1"}],
    ],
)
def test_calls_that_have_their_outputs_pass(items: list[Item]) -> None:
    check_calls(items)


@pytest.mark.parametrize(
    "items",
    [
        [output("call_x")],
        [call("call_x")],
        [call("call_x"), output("call_x"), output("call_x")],
        [call("call_x"), call("call_x"), output("call_x")],
        [call("call_x"), output("call_x", "custom_tool_call_output")],
        [output("call_x"), call("call_x")],
        [{"type": "local_shell_call_output", "id": "call_x", "output": "x"}],
        [call("call_x", "program"), output("call_x")],
        [call("call_x", "program"), output("call_x", "program_output"), output("call_x", "program_output")],
    ],
)
def test_a_call_that_does_not_fit_is_refused_by_its_name(items: list[Item]) -> None:
    with pytest.raises(GatewayError) as refused:
        check_calls(items)
    assert (refused.value.status, refused.value.param) == (400, "input")
    assert "'call_x'" in refused.value.message


@pytest.mark.parametrize("named", [{"id": "lsh_1"}, {"id": "a"}, {"call_id": "a"}, {"call_id": "a", "id": "x"}])
def test_an_output_of_the_local_shell_names_its_call_by_the_id_that_is_sent(named: Item) -> None:
    said: Item = {"type": "local_shell_call_output", **named, "output": "x", "status": "completed"}
    assert upstream_items(with_ids([call("a", "local_shell_call", id="lsh_1"), said])) == [
        call("a", "local_shell_call"),
        {"type": "local_shell_call_output", **named, "id": "a", "output": "x"},
    ]


def test_items_go_upstream_without_what_only_answers_have() -> None:
    blob: Item = {
        "type": "reasoning",
        "id": "rs_1",
        "status": None,
        "summary": [],
        "encrypted_content": "b",
        "content": None,
    }
    unknown = {"type": "program", "id": "prg_1", "status": "done", "code": "x", "nothing": None}
    refusal = {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}
    found = upstream_items([blob, {"type": "reasoning", "id": "rs_2", "summary": []}, answer("hi"), unknown, refusal])
    assert found == [
        {"type": "reasoning", "summary": [], "encrypted_content": "b"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "hi"}]},
        {"type": "program", "code": "x"},
        refusal,
    ]
    assert upstream_items([blob], reasoning_ids=True)[0]["id"] == "rs_1"


def test_a_citation_and_a_phase_go_back() -> None:
    citation = {"type": "url_citation", "url": "https://example.org"}
    part = {"type": "output_text", "text": "t", "annotations": [citation], "logprobs": [{"token": "t"}]}
    item = {"type": "message", "role": "assistant", "phase": "final_answer", "content": [part]}
    assert upstream_items([item]) == [
        {**item, "content": [{"type": "output_text", "text": "t", "annotations": [citation]}]}
    ]


@pytest.mark.parametrize(
    ("item", "reference"),
    [
        ({"type": "item_reference", "id": "x"}, True),
        ({"id": "x"}, True),
        ({"type": None, "id": "x"}, True),
        ({"type": "image_generation_call", "id": "ig_1"}, True),
        ({"type": "image_generation_call", "id": "ig_1", "result": "aGk="}, False),
        ({"role": "user", "content": "x"}, False),
        ({"type": "message", "id": "m", "role": "user", "content": "x"}, False),
    ],
)
def test_a_reference_is_told_from_an_item(item: Item, reference: bool) -> None:
    assert is_reference(item) is reference


def test_shown_items_have_ids_of_their_own_and_typed_content() -> None:
    items = shown([*as_items("One."), {"role": "user", "content": "Two."}, answer("x", "msg_0"), answer("y", "msg_0")])
    assert len({item["id"] for item in items}) == 4
    assert items[0]["content"] == [{"type": "input_text", "text": "One."}]
    assert items[1]["content"] == [{"type": "input_text", "text": "Two."}]
    assert items[1]["type"] == "message"
    assert items[2]["id"] == "msg_0"
