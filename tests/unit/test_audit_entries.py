"""Entries of the audit log as text, for the dashboard and the command line."""

from typing import Any

import pytest

from gateway.api.admin.access import RULES
from gateway.cli.admin_keys import changed
from gateway.dashboard.audit_entries import ACTION_TEXTS, audit_entry

UPSTREAM = {"object": "upstream", "name": "siraya", "base_url": "https://a/v1", "state": "healthy", "obeyed": True}


def action(name: str, before: dict[str, Any] | None, after: dict[str, Any] | None) -> dict[str, Any]:
    fixed = {
        "at": "2026-12-01T10:00:00.000Z",
        "actor_name": "root",
        "request_id": "req_1",
        "subject": "",
        "team_id": None,
    }
    return {**fixed, "action": name, "before": before, "after": after}


@pytest.mark.parametrize("name", [name for name in RULES if not name.startswith("GET ")])
def test_every_change_that_an_admin_may_make_has_words(name: str) -> None:
    assert name in ACTION_TEXTS


def test_only_what_was_known_before_can_have_changed() -> None:
    """An answer has more members than what is read before an action."""
    taken_out = action(
        "POST /upstreams/{upstream}/disable", {"name": "siraya", "enabled": True}, {**UPSTREAM, "enabled": False}
    )
    assert audit_entry(taken_out, {}).changes == (("enabled", "true", "false"),)
    assert changed(taken_out) == '{"enabled": false}'


def test_a_test_notice_names_its_recipient() -> None:
    entry = audit_entry(action("POST /notices/test", None, {"recipient": "ops", "sent": True}), {})
    assert (entry.did, entry.to, entry.changes) == ("sent a test notice to", "ops", ())
