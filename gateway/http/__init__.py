"""The client's side: connections, requests and answers over HTTP/1.1.

connection           a client's connection under uvicorn
connection_factory   makes one for each that is accepted
connection_context   what a worker's connections have in common
connection_budget    bounds what they take together
patience             what a connection waits for, and for how long
half_closed          tells a client that has ended its side from one that has left
parser               bytes -> requests, with a bounded head
chunked_framing      where a chunked body ends
body_reader          reads long bodies straight into their buffer
request_cycle        one request and its answer, on the connection or as ASGI messages
detached             a connection whose HTTP is over
websocket_handshake  the opening handshake of a WebSocket connection
websocket_connection a client's WebSocket connection: frames, pings, bounds, closes
client               what the handler uses to read a request and write its answer
connection_client    the same on the gateway's own connection
asgi_client          the same on any other ASGI server
inner_client         what clients share that have no HTTP connection of their own
head                 HTTP/1.1 heads as bytes
client_address       the client's address behind trusted proxies
auth_throttle        limits wrong keys per address
"""
