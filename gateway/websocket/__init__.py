"""WebSocket mode at GET /v1/responses: another client interface in front of the same request handler.

upgrade      answers upgrades: checks the key, the origin and the bounds
session      one client's WebSocket: its lanes, the turns that wait in them, and its end
turn         one turn: what it continues, and its path through the request handler
steering     the turns that follow a steered turn, if it is sent to its upstream by WebSocket
steering_answers  sends the answers to steerings in their order, large ones from a thread
turn_client  the client of one turn: events become messages
messages     the format of messages from and to clients. Pure
memory       the responses that nobody stores, and that a WebSocket remembers
warm_up      answers `generate: false`
sockets      all WebSockets of a worker: bounds, maintenance and counts
"""
