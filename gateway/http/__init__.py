"""The client's side: connections, requests and answers over HTTP/1.1.

connection           a client's connection under uvicorn
connection_factory   creates one for each that is accepted
connection_context   what the connections of a worker share
connection_budget    bounds what they take together
patience             the timeout of a connection
half_closed          tells a client that has closed its sending side from one that has disconnected
parser               bytes -> requests, with a bounded head
known_head           a head like the one before, which is not parsed again
chunked_framing      where a chunked body ends
body_reader          reads long bodies straight into their buffer
request_cycle        one request and its answer, on the connection or as ASGI messages
detached             a connection that leaves HTTP for another protocol
websocket_handshake  the opening handshake of a WebSocket connection
websocket_connection a client's WebSocket connection: frames, pings, bounds, closes
client               what the handler uses to read a request and write its answer
connection_client    the same on the gateway's own connection
asgi_client          the same on any other ASGI server
inner_client         the base of clients without an HTTP connection of their own
head                 HTTP/1.1 heads as bytes
client_address       the client's address behind trusted proxies
auth_throttle        limits wrong keys per address
"""
