"""/dashboard: pages for people, rendered on the server. Every number and every change goes through the admin API.

    sign_in.py        GET POST /dashboard/login, POST /logout; sessions are in accounts/sessions.py
    sign_in_page.py   the sign-in page, and the form that it keeps when a session has ended
    single_sign_on.py GET /dashboard/login/oidc and /callback: signing in at an identity provider
    overview.py       GET /dashboard: spend, requests, refusals, durations; plots.py draws what charts.py collects
    attribution.py    /attribution: usage by tag and by end user
    teams.py          /teams, /teams/{team}: balances, limits, credits; forecast.py says when a balance ends
    keys.py           POST /teams/{team}/keys and below: create, rotate, change, revoke
    journal.py        GET /teams/{team}/journal: every movement of credits
    requests.py       GET /requests, /requests/{id}, and /live as server-sent events
    upstreams.py      /upstreams: health, disable, enable; GET /audit: who did what
    admin_keys.py     /admin-keys: create, list, revoke
    notices.py        /notices: the recipients, the sent notices, and a test
    prices.py         /prices: the price rows, and what a usage costs
    configuration.py  /configuration: show it and reload it
    downloads.py      /download/{name}.csv: the rows of each page, for spreadsheets
    static.py         /static/{name}: the style sheet, the scripts, the icon
    not_found.py      any other path
    guard.py          sessions, CSRF tokens, headers, and errors as pages, for every route
    admin_client.py   calls the admin API in-process as the admin who is signed in
    audit_entries.py  entries of the audit log as text
    limit_bars.py     limits as bars
    forms.py          fields of forms as the API's JSON
    snippets.py       lines for programs that use a new key
    render.py         the templates and the functions that they may call

The Content-Security-Policy in guard.py permits only the dashboard's own scripts and style sheet.
"""

from __future__ import annotations

from collections.abc import Callable

from fastapi import FastAPI

from gateway.dashboard import (
    admin_keys,
    attribution,
    configuration,
    downloads,
    journal,
    keys,
    not_found,
    notices,
    overview,
    prices,
    requests,
    sign_in,
    single_sign_on,
    static,
    teams,
    upstreams,
)
from gateway.types import Scope


def install(app: FastAPI, host_of: Callable[[Scope], str]) -> None:
    """Declares the dashboard's routes. `host_of` returns the address that attempts to sign in are counted against."""
    app.state.host_of = host_of
    pages = (
        overview,
        attribution,
        teams,
        keys,
        journal,
        requests,
        upstreams,
        notices,
        prices,
        admin_keys,
        configuration,
        downloads,
    )
    for module in (sign_in, single_sign_on, static, *pages, not_found):
        app.include_router(module.router, prefix="/dashboard", include_in_schema=False)
