"""A self-hosted gateway in front of an OpenResponses provider.

Imports point downwards only:

    cli                            the command line
    app                            composition root, lifespan
    api, dashboard                 HTTP in, JSON and pages out
    pipeline, relay                one request: present .. open, relay .. record
    downstream, interrupt          the client's connection; ending a request from outside
    ledger, upstream               the store; connections to providers
    identity                       keys: format, checksum, hash
    settings                       the only reader of environment and files
    errors, money, pricing,        pure: no I/O, no framework
    routing, envelope, sse,
    exchange, patterns, usage,
    endings

    simulator                      a provider that needs no network; knows nothing of the rest
"""

__version__ = "0.1.0"
