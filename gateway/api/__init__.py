"""The HTTP surface, but for the hot path's steps themselves.

responses.py   POST /v1/responses (declared here, served by the request line)
models.py      GET /v1/models, /v1/models/{id}
key.py         GET /v1/key
health.py      GET /healthz, /readyz
metrics.py     GET /metrics
admin/         /admin/v1
faults.py      every error in one format, 404 and 405 too
callers.py     who calls, for the routes that are not on the hot path
"""

from __future__ import annotations

from fastapi import FastAPI

from gateway.api import admin, error_handlers, health, key, metrics, models, responses


def install(app: FastAPI, throttle: error_handlers.Throttle, *, numeric_codes: bool) -> None:
    """Declares every route on the application."""
    error_handlers.install(app, throttle, numeric_codes=numeric_codes)
    for module in (responses, models, key, health, metrics, admin):
        app.include_router(module.router)
