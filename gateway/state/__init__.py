"""Stored responses and conversations: the stateful part of the API in front of a provider that only answers POST.

items           an item as a client sends it, as it is shown, and as it goes upstream
chain           earlier turns and a new input -> the input that goes upstream; what may not be asked is refused
rewriting       the fields of an answer that the gateway changes
records         a stored response as bytes: packed, compressed, sealed where the operator has set a key
"""
