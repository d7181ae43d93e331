"""Stored responses and conversations: the stateful part of the API in front of a provider that only answers POST.

items           an item as a client sends it, as it is shown, and as it goes upstream
chain           earlier turns and a new input -> the input that goes upstream
rewriting       the fields of an answer that the gateway changes
records         a stored response as bytes: packed, compressed, sealed where the operator has set a key
responses       stored responses in the store: chains, forks, deletions, bounds
conversations   lists of items to which turns append
turns           one turn, from its past to its end
stored_calls    calls about stored responses, answered without the provider
replay          a stored response as an event stream
lists           lists of items as the API pages them
"""
