"""/admin/v1: the admin API, protected by `admin.key`.

    teams.py             POST GET /teams                    GET PATCH DELETE /teams/{team}      by id or name
    keys.py              POST GET /teams/{team}/keys        GET PATCH DELETE /teams/{team}/keys/{key}
    team_credits.py      POST GET /teams/{team}/credits
    end_users.py         GET /teams/{team}/end-user-limits
    kept_state.py        GET DELETE /teams/{team}/state
    journal.py           GET /teams/{team}/journal          GET /ledger/verify
    requests.py          GET /requests                      GET /requests/{id}
    rotation.py          POST /teams/{team}/keys/{key}/rotate   GET /keys/{key}                by its id alone
    admin_keys.py        GET POST /admin-keys               DELETE /admin-keys/{id}         GET /whoami   GET /audit
                         POST /admin-keys/{id}/rotate
    sign_in.py           POST DELETE /sign-in               POST /sign-in/token             at an identity provider
    usage.py             GET /usage                         GET /usage/tags                 usage_totals.py adds up
    events.py            GET /events                        live, as server-sent events
    upstreams.py         GET /upstreams                     POST /upstreams/{name}/disable|enable
    notices.py           GET /notices                       POST /notices/test
    prices.py            GET /prices                        GET /prices/explain
    config.py            GET /config                        POST /config/reload             GET /openapi.json
    upstream_standing.py whether an upstream is asked, and if not, until when
    feasibility.py       refuses settings that can never work
    access.py            the table of what each scope may do
    auditing.py          writes the audit log's entries
    answers.py           renders large answers in slices
    guard.py             authentication, bounded bodies, idempotency keys, versions
    request_models.py    the bodies that are accepted
    limit_models.py      limits in these bodies; override_models.py overrides, moments.py times
    query_parameters.py  query parameters that several routes accept
    serialization.py     the JSON of answers

Lists are pages: `?limit=&after=` -> {"object": "list", "data", "next"}. `next` is the `after` of the next page, or null
at the end. Creations and movements accept an `Idempotency-Key`: a repeat returns the same object, and the repeated
creation of a key returns the same key (`accounts.idempotency` explains how that works without storing a secret).
Changes accept `If-Match: <version>` and apply from the very next request on. Money is a decimal string in USD, time is
ISO 8601. Errors have the gateway's one format.
"""

from fastapi import APIRouter

from gateway.api.admin import (
    admin_keys,
    config,
    end_users,
    events,
    journal,
    kept_state,
    keys,
    notices,
    prices,
    requests,
    rotation,
    sign_in,
    team_credits,
    teams,
    upstreams,
    usage,
)
from gateway.api.admin.guard import GuardedRoute

router = APIRouter(prefix="/admin/v1", route_class=GuardedRoute)
for part in (
    *(teams, keys, rotation, team_credits, end_users, kept_state, journal),
    *(requests, usage, admin_keys, sign_in, upstreams, notices, prices, config, events),
):
    router.include_router(part.router)
router.include_router(sign_in.open_router)
