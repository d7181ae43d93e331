"""Which requests the handler takes, and that what it sends on stays below the path of its operation."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.operations import (
    KNOWN_NAMES,
    OPERATIONS,
    PREFIX,
    Operation,
    checked_names,
    find,
    is_response_id,
    names_of,
    permits,
)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_each_operation_is_found_by_its_method_and_path(operation: object) -> None:
    row = next(one for one in OPERATIONS if one is operation)
    path = row.route.replace("{id}", "resp_1")
    target = find(row.method, path)
    assert target is not None
    assert target.operation is row
    assert target.path == path.removeprefix("/v1").encode()
    assert target.response_id == ("resp_1" if row.by_id else None)


def test_every_operation_has_a_name_of_its_own() -> None:
    assert len({operation.name for operation in OPERATIONS}) == len(OPERATIONS)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/responses"),
        ("PUT", "/v1/responses/resp_1"),
        ("POST", "/v1/responses/resp_1"),
        ("GET", "/v1/responses/"),
        ("GET", "/v1/responses/.."),
        ("GET", "/v1/responses/../models"),
        ("GET", "/v1/responses/resp_1/"),
        ("GET", "/v1/responses/a/b/input_items"),
        ("GET", "/v1/responsesresp_1"),
        ("GET", "/v1/models"),
        ("GET", "/v1/chat/completions"),
        ("POST", "/v1/chat/completions/"),
        ("POST", "/v1/chat/completions/chatcmpl-1"),
    ],
)
def test_everything_else_is_not_the_handlers(method: str, path: str) -> None:
    assert find(method, path) is None


@given(st.sampled_from(["GET", "POST", "DELETE"]), st.text(alphabet=st.sampled_from("a/.%?#\r\n \\é_"), max_size=12))
def test_no_path_leads_out_of_responses(method: str, tail: str) -> None:
    target = find(method, f"{PREFIX}/{tail}")
    if target is not None:
        assert target.path.startswith(b"/responses/")
        assert not set(target.path.split(b"/")) & {b".", b".."}
        assert not set(target.path) & set(b"%?#\r\n \\")


@given(st.text(max_size=6))
def test_a_response_id_fits_into_one_path_segment(text: str) -> None:
    if is_response_id(text):
        assert text.isascii()
        assert not set(text) & set("/?#% \r\n")
        assert text not in (".", "..")


@pytest.mark.parametrize(
    ("operation", "names"),
    [
        ("responses", ("responses", "responses.*", "*")),
        ("responses.retrieve", ("responses.retrieve", "responses.*", "*")),
        ("chat.completions", ("chat.completions", "chat.*", "*")),
        ("messages.count_tokens", ("messages.count_tokens", "messages.*", "*")),
    ],
)
def test_the_names_that_stand_for_an_operation(operation: str, names: tuple[str, ...]) -> None:
    assert names_of(operation) == names


def test_a_list_of_operations_has_known_names_once_each() -> None:
    assert checked_names(["images.*", "responses", "images.*"]) == ("images.*", "responses")
    for unknown in ("chat", "images", "responses.", "", "Responses", "messages.count_tokens.*"):
        with pytest.raises(ValueError, match=r"chat\.completions"):
            checked_names([unknown])
    assert checked_names(sorted(KNOWN_NAMES)) == tuple(sorted(KNOWN_NAMES))


@given(st.lists(st.sampled_from(sorted(KNOWN_NAMES)), max_size=4), st.sampled_from(OPERATIONS))
def test_a_list_permits_what_one_of_its_names_stands_for(listed: list[str], operation: Operation) -> None:
    by_hand = not listed or any(
        name in ("*", operation.name)
        or (name.endswith(".*") and (f"{operation.name}.").startswith(name.removesuffix("*")))
        for name in listed
    )
    assert permits(listed, operation.name) == by_hand
