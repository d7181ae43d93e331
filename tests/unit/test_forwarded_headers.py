"""Which headers of clients a setting may pass on to an upstream."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.test_settings import GOOD, load, problems


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_PROVIDER_KEY", "provider-key")


@pytest.mark.parametrize(
    ("name", "accepted"),
    [
        ("authorization", False),
        ("x-api-key", False),
        ("api-*", False),
        ("sec-websocket-protocol", False),
        ("sec-websocket-*", False),
        ("sec-*", False),
        ("te", False),
        ("keep-alive", False),
        ("sec-gpc", True),
        ("x-title", True),
    ],
)
def test_no_setting_forwards_a_key_or_what_belongs_to_one_connection(
    tmp_path: Path, name: str, *, accepted: bool
) -> None:
    text = GOOD.replace("[[routes]]", f'forward_headers = ["{name}"]\n[[routes]]')
    if accepted:
        assert load(tmp_path, text).upstreams["siraya"].forward_headers == (name,)
    else:
        [problem] = problems(tmp_path, text)
        assert "never goes to an upstream" in problem
