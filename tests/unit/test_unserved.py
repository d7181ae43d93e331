"""What is not served is refused by a status that no client reads as an unknown model, and with a way out."""

import pytest

from gateway.api.unserved import INSTEAD, refusal_of
from gateway.protocol.operations import OPERATIONS


def allowed(method: str, path: str) -> str:
    return dict(refusal_of(method, path).headers())[b"allow"].decode()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/files"),
        ("GET", "/v1/files/file-1/content"),
        ("POST", "/v1/uploads"),
        ("POST", "/v1/batches"),
        ("POST", "/v1/vector_stores/vs_1/search"),
        ("POST", "/v1/fine_tuning/jobs"),
        ("POST", "/v1/assistants"),
        ("POST", "/v1/threads/thread_1/runs"),
        ("POST", "/v1/realtime/client_secrets"),
        ("GET", "/v1/realtime"),
        ("POST", "/v1/videos"),
        ("POST", "/v1/containers"),
        ("POST", "/v1/evals"),
        ("GET", "/v1/chat/completions/chatcmpl-1"),
        ("POST", "/v1/messages/batches"),
        ("POST", "/v1/complete"),
        ("GET", "/v1/organization/usage/completions"),
        ("POST", "/v1/audio/voices"),
        ("POST", "/v1/images/nothing"),
        ("POST", "//v1//files"),
        ("POST", "/v1/v1/files"),
        ("GET", "/v1/files/"),
    ],
)
def test_the_rest_of_the_providers_api_is_a_405_that_says_what_to_use_instead(method: str, path: str) -> None:
    error = refusal_of(method, path)
    assert (error.status, error.code) == (405, "method_not_allowed")
    assert error.message.startswith(f"{method} {path} is not served by this gateway. ")
    assert "/v1/chat/completions" in error.message
    assert any(instead in error.message for instead in INSTEAD.values())
    assert allowed(method, path) == ""


@pytest.mark.parametrize(
    ("method", "path", "methods"),
    [
        ("GET", "/v1/chat/completions", "POST"),
        ("PUT", "/v1/responses/resp_1", "DELETE, GET"),
        ("GET", "/v1/messages/count_tokens", "POST"),
        ("DELETE", "/v1/responses/resp_1/cancel", "POST"),
    ],
)
def test_another_method_is_a_405_that_names_the_right_ones(method: str, path: str, methods: str) -> None:
    error = refusal_of(method, path)
    assert error.code == "method_not_allowed"
    assert f"{methods.split(', ', maxsplit=1)[0]} {path}" in error.message
    assert allowed(method, path) == methods


@pytest.mark.parametrize("operation", [one for one in OPERATIONS if not one.by_id], ids=lambda one: one.name)
def test_every_operations_path_has_its_method(operation: object) -> None:
    row = next(one for one in OPERATIONS if one is operation)
    assert row.method in allowed("PATCH", row.route).split(", ")


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/chat/completions", " Did you mean /v1/chat/completions?"),
        ("/v1/v1/responses", " Did you mean /v1/responses?"),
        ("/v1/nowhere", ""),
        ("/files", ""),
        ("/v10/files", ""),
        ("/api/tags", ""),
    ],
)
def test_any_other_path_is_a_404_that_helps(path: str, hint: str) -> None:
    error = refusal_of("POST", path)
    assert error.code == "unknown_url"
    assert error.message == f"There is nothing at POST {path}.{hint}"
