"""WebSocket mode at GET /v1/responses: another client's side in front of the same request handler.

upgrade      decides about an upgrade: who asks, from where, and whether there is room
session      one socket's life: its lanes, the turns that wait in them, and when it ends
turn         one turn: what it goes on from, and its way through the request handler
steering     the turns that follow a steered one, where an upstream is asked over a socket
turn_client  one turn's client: events become messages
messages     what clients send, and what they are sent. Pure
memory       what a socket remembers of responses that nobody stores
warm_up      answers `generate: false`
sockets      all sockets of a worker: bounds, upkeep, counts
"""
