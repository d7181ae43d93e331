"""The HTTP routes of the gateway. The steps of a model request are in `proxy`.

responses        POST /v1/responses (declared here, served by proxy/handler.py)
models           GET /v1/models, /v1/models/{id}
anthropic_models the same in Anthropic's form
root             GET /: what this is
hello            HEAD and GET /api/hello, which Claude Code calls
conversations    /v1/conversations, if the gateway keeps state
key              GET /v1/key
health           GET /healthz, /readyz
metrics          GET /metrics
admin            /admin/v1
middleware       around every route: ports, CORS, headers, counts
nearby_paths     finds the path that a caller of an unknown path probably meant
unserved         404 and 405 for paths that are not served, and what to use instead
error_handlers   every error in one format, including 404 and 405
json_bodies      large JSON bodies of these routes, and answers
dependencies     the services, and the caller of a route that is not on the hot path
"""

from __future__ import annotations

from fastapi import FastAPI

from gateway.api import admin, conversations, error_handlers, health, hello, key, metrics, models, responses, root


def install(app: FastAPI, throttle: error_handlers.Throttle, *, numeric_codes: bool) -> None:
    """Declares every route on the application."""
    error_handlers.install(app, throttle, numeric_codes=numeric_codes)
    for module in (responses, conversations, models, key, health, root, hello, metrics, admin):
        app.include_router(module.router)
