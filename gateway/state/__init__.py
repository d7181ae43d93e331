"""Stored responses and conversations: the stateful part of the API, for providers that only answer POST.

items           one item in its three forms: as sent by a client, as shown to a client, as sent upstream
chain           resolves earlier turns and a new input into the input that goes upstream
past            what a turn continues
references      what items name that are only named
rewriting       the fields of an answer that the gateway changes
large_work      what takes long to read or write: in threads, in short calls
records         a stored response as bytes: packed, compressed, encrypted if the operator has set a key
responses       stored responses in the store: chains, forks, deletions, bounds
conversations   lists of items to which turns append
background      responses that run in the background, in the store: queued, leased, ended once
background_turn one turn that runs in the background
event_log       the events of a background response, numbered
following       follows the events of a background response
snapshot        a response before the provider has one, and one that failed
compaction      a model's own summary in the place of what it summarises
compact_turn    a call of POST /v1/responses/compact
shapes          what compaction changes in an answer's output
sealing         encrypts what is kept, and what clients keep
turns           begins turns: resolves their past
turn            one turn, from its beginning to storing its response
housekeeping    how much is kept of a team, and how it is deleted
stored_calls    calls about stored responses, answered without the provider
replay          a stored response as an event stream
lists           pages of items, as the API returns them
"""
