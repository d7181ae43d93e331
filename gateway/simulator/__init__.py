"""A provider that needs no network, key or model: OpenResponses (spec 2026-04-24), and the calls beside it.

Its text is derived from the request, so that the same request gets the same text. Any model name works. A name under
`sim/` selects a behaviour, and `+` combines several (`sim/slow-20+no-usage`). `<n>` counts whole SSE events, without
`[DONE]` and comments.

| model               | what it does                                                              |
|---------------------|---------------------------------------------------------------------------|
| `sim/slow-<ms>`     | waits so long before each token; a plain answer waits the sum             |
| `sim/stall-<n>`     | n events, then silence with the connection open (plain: half the body)    |
| `sim/stall-head`    | reads the request and never answers                                       |
| `sim/cut-<n>`       | n events, then the connection dies inside the body (plain: half the body) |
| `sim/end-<n>`       | n events, then a clean end without a terminal event                       |
| `sim/error-<status>`| an error answer of that status (400-599); 429 and 503 with Retry-After    |
| `sim/error-event`   | an `error` event in mid-stream, after which the stream goes on            |
| `sim/error-first`   | an error under a 200 as the first event (chat completions, messages)      |
| `sim/no-stream-options` | 422 to a chat completion with `stream_options`                        |
| `sim/error-200`     | 200 whose body is an error object                                         |
| `sim/html`          | 200 with an HTML page                                                     |
| `sim/bad-json`      | 200 with JSON that stops in the middle                                    |
| `sim/failed`        | half the text, then `response.failed`, with usage                         |
| `sim/incomplete`    | half the text, then `response.incomplete` (content_filter), with usage    |
| `sim/no-usage`      | `usage` is null                                                           |
| `sim/cached`        | half of the input tokens count as cached                                  |
| `sim/cost`          | `usage.cost`: the price of the answer in USD                              |
| `sim/tokens-<n>`    | a text of exactly n output tokens                                         |
| `sim/big-<n>`       | the text is one delta of n KiB                                            |
| `sim/reasoner`      | a reasoning item first; any name that starts so                           |
| `sim/extension`     | event types and an output item that no specification names                |
| `sim/crlf`          | SSE lines end with CRLF                                                   |
| `sim/cr`            | SSE lines end with CR                                                     |
| `sim/comments`      | a comment before each event                                               |
| `sim/no-done`       | no `data: [DONE]` at the end                                              |
| `sim/after-done`    | one more event after `[DONE]`                                             |

    app             the routes
    behaviours      model name -> Behaviour
    request         body bytes -> Request, or ProviderError
    stateless       what a provider without state refuses
    plan            Request -> Plan: everything that will be answered
    text            prompt -> words and tokens
    schema_fill     JSON schema -> a value that satisfies it
    schema_check    whether a value satisfies a JSON schema
    schema_match    whether a regular expression is found in a text, in bounded time
    schema_pattern  regular expression -> strings that match it
    events          Plan -> response objects and SSE frames
    answer          sends a plan as its behaviour demands
    chat            chat completions and completions
    messages        Anthropic's messages
    vectors         embeddings, moderations, rerank
    media           images, speech, transcriptions
    translation     other APIs' requests -> the equivalent request for a response
    websocket       WebSocket mode: turns, lanes, steering
    http_exchange   one HTTP exchange, recorded
    record          what was received, in bounded memory
    server          run(host, port)

The package imports nothing else of `gateway`.
"""

from gateway.simulator.app import build_simulator
from gateway.simulator.server import run, serve

__all__ = ["build_simulator", "run", "serve"]
