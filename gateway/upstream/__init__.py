"""Upstreams: the connections to them, their health and their models.

transport         the interface of a connection pool to one upstream
factory           selects an implementation
pool              the native implementation: keep-alive HTTP/1.1 connections to one origin
unsent_body       what of a request's body has not been written, in memory or on disk
http1             one native connection
answer            an answer that arrives on it
buffered_answer   an answer whose body has been read
decoded_answer    an answer that came compressed
request_head      request heads as bytes
origin            base URLs and TLS trust
dial              TCP connections by Happy Eyeballs
connector         the way to an origin: TCP, a proxy's tunnel, TLS
forward_proxy     forward proxies and the tunnel through them
http2_pool        the HTTP/2 implementation: requests share a few connections
http2             one HTTP/2 connection and its streams
goaway            how an upstream ends an HTTP/2 connection
websocket_pool    the WebSocket connections to one upstream, and which of them a turn takes
websocket         one WebSocket connection
websocket_writer  what is written on it
websocket_turn    one turn on it, as an answer
websocket_messages    what is sent and what comes. Pure
websocket_watches     who steers turns
websocket_steering    the turn that follows a steered one
upstream          one upstream: transport, health and keys
health            circuit breakers and resting keys
model_list        the models that upstreams offer
"""
