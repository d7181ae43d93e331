"""Stored responses and conversations: the stateful part of the API, for providers that only answer POST.

items           one item in its three forms: from a client, to a client, to an upstream
chain           resolves earlier turns and a new input into the input that is sent upstream
past            what a turn continues
own_ids         ids that the gateway has made
references      finds the items that references name
rewriting       the fields of an answer that the gateway changes
large_work      long parsing and serializing: in threads, in short calls
records         a stored response as bytes: packed, compressed, encrypted if the operator has set a key
responses       stored responses in the store: chains, forks, deletions, bounds
conversations   lists of items to which turns append
background      background responses in the store: queued, leased, ended once
background_turn one turn that runs in the background
event_log       the numbered events of a background response
following       follows the events of a response that may still run
snapshot        a response before the provider has one, and one that failed
compaction      replaces a long conversation by a model's own summary
compact_turn    a call of POST /v1/responses/compact
output_changes  the changes of an answer's output that compaction makes
sealing         encrypts stored responses, and items that clients keep
turns           begins turns: resolves what they continue
turn            one turn, from its beginning to storing its response
housekeeping    how much state a team has, and its deletion
stored_calls    answers calls for stored responses without the provider
replay          a stored response as an event stream
lists           pages of items, as the API returns them
"""
