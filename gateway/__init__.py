"""A self-hosted gateway in front of OpenResponses providers.

A request passes these packages in this order. Each lists its own modules.

    http            the client's side: connections, requests and answers over HTTP/1.1
    proxy           one request's steps: admission, failover, relay, and the one exit where it is settled and recorded
    protocol        wire formats: bodies, server-sent events, usage, headers (pure)
    routing         from a model to the upstreams that may serve it (pure)
    billing         prices, and what a request costs (pure)
    ledger          holds, settlements and the journal, in the store
    upstream        connections to providers, and the providers' health

Around them:

    app, server     the composition root; the processes
    store           the client of Redis or Valkey
    accounts        teams, keys, credits and sessions in the store
    identity        the formats of keys (pure)
    oidc            operators' sign-in at an identity provider
    state           responses and conversations that the gateway keeps itself
    websocket       WebSocket mode: each message of a client is a request
    observability   the request log, metrics, traces
    reporting       what operators look at: usage, refusals, live requests, the audit log
    notices         messages to operators when a team comes near a limit
    worker          background work: reloading the configuration, signals, collecting metrics
    config          the settings, from the file and the environment
    api, dashboard  HTTP routes for clients and operators; pages for people
    cli             the command line
    simulator       a provider that needs no network
    concurrency     helpers for asyncio
    errors, types   the error catalogue; shared type aliases

import-linter holds the direction of imports: ARCHITECTURE.md, "Layers".
"""

__version__ = "0.1.0"
