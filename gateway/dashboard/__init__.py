"""/dashboard: pages for people, rendered here. Every number and every change is the admin API's, asked in-process.

    sign_in.py    GET POST /dashboard/login, POST /logout     sessions: ledger.sessions
    overview.py   GET /dashboard            spend, requests, refusals, times; charts.py draws: GET /charts/{name}.svg
    teams.py      /teams, /teams/{team}     balances, limits, credits; forecast.py: when a balance ends
    keys.py       POST /teams/{team}/keys   and below: make, rotate, change, revoke
    journal.py    GET /teams/{team}/journal every movement of credits
    requests.py   GET /requests, /live      the last ones with the reason; live, as server-sent events; /requests/{id}
    upstreams.py  /upstreams                health; out and in           GET /audit: who did what
    admin_keys.py /admin-keys               make, list, revoke
    configuration.py  /configuration        in force; read it again
    guard.py      session, CSRF, headers, errors as pages, for every route
    inside.py     the admin API, asked as whoever signed in: its table of access and its audit log hold here too
    deeds.py      entries of the audit log in words
    forms.py      fields of forms -> the API's JSON       render.py     templates and what they may call

No script but the live feed's, no style but ours: the Content-Security-Policy of guard.py allows nothing else.
"""

from __future__ import annotations

from collections.abc import Callable

from fastapi import FastAPI

from gateway.dashboard import (
    admin_keys,
    configuration,
    journal,
    keys,
    not_found,
    overview,
    requests,
    sign_in,
    static,
    teams,
    upstreams,
)
from gateway.types import Scope


def install(app: FastAPI, host_of: Callable[[Scope], str]) -> None:
    """Declares the dashboard's routes on the application. `host_of`: whom to count attempts to sign in against."""
    app.state.host_of = host_of
    pages = (overview, teams, keys, journal, requests, upstreams, admin_keys, configuration)
    for module in (sign_in, static, *pages, not_found):
        app.include_router(module.router, prefix="/dashboard", include_in_schema=False)
