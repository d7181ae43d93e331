"""/admin/v1: the admin API, behind `admin.key`.

    teams.py     POST GET /teams                    GET PATCH /teams/{team}             by id or name
    keys.py      POST GET /teams/{team}/keys        GET PATCH /teams/{team}/keys/{key}
    credits_.py  POST GET /teams/{team}/credits
    journal.py   GET /teams/{team}/journal          GET /ledger/verify
    requests.py  GET /requests                      GET /requests/{id}
    rotation.py  POST /teams/{team}/keys/{key}/rotate   GET /keys/{key}                by its id alone
    admins.py    GET POST /admin-keys               DELETE /admin-keys/{id}         GET /whoami   GET /audit
    usage.py     GET /usage                         events.py  GET /events          live, as server-sent events
    upstreams.py GET /upstreams                     POST /upstreams/{name}/disable|enable
    config.py    GET /config                        POST /config/reload             GET /openapi.json
    access.py    who may do what: a table; auditing.py  what was done
    guard.py     who may; bounded bodies             bodies.py  what is taken            shapes.py  what is given

Lists are pages: `?limit=&after=` -> {"object": "list", "data", "next"}; `next` is the next page's `after`, null at the
end. Creations and movements take an `Idempotency-Key`; a repeat gets the same object, and a key's creation the same key
(ledger.team.Once says how, with no secret stored). Changes take `If-Match: <version>`; they are in force with the very
next request. Money is a decimal string in USD, time is ISO 8601. Errors are in the gateway's one format.
"""

from fastapi import APIRouter

from gateway.api.admin import (
    admin_keys,
    config,
    events,
    journal,
    keys,
    requests,
    rotation,
    team_credits,
    teams,
    upstreams,
    usage,
)
from gateway.api.admin.guard import GuardedRoute

router = APIRouter(prefix="/admin/v1", route_class=GuardedRoute)
for part in (teams, keys, rotation, team_credits, journal, requests, usage, admin_keys, upstreams, config, events):
    router.include_router(part.router)
