"""Upstreams: the connections to them, their health and their models.

transport           the interface of a connection pool to one upstream
factory             selects an implementation
pool                the native implementation: keep-alive HTTP/1.1 connections to one origin
http1               one native connection
unsent_body         the rest of a request's body that has not been written yet, in memory or on disk
answer              an answer while it arrives on a native connection
buffered_answer     an answer whose body has been read
decoded_answer      an answer that came compressed
request_head        request heads as bytes
origin              base URLs and TLS trust
dial                TCP connections by Happy Eyeballs
connector           opens connections to an origin: TCP, a proxy's tunnel, TLS
forward_proxy       forward proxies and the tunnel through them
http2_pool          the HTTP/2 implementation: requests share a few connections
http2               one HTTP/2 connection and its streams
goaway              the frames by which an upstream ends an HTTP/2 connection
websocket_pool      the WebSocket connections to one upstream, and which of them a turn takes
websocket           one WebSocket connection
websocket_upgrade   the opening handshake of a WebSocket connection. Pure
websocket_reader    puts messages together, and reads large ones in a thread
websocket_writer    writes messages on a WebSocket connection
websocket_turn      one turn on a WebSocket connection, as an answer
websocket_messages  the format of messages on a WebSocket connection. Pure
websocket_listeners the listeners of steered turns on a connection
websocket_steering  the turn that follows a steered turn
upstream            one upstream: transport, health and keys
health              circuit breakers and resting keys
model_list          the models that upstreams offer
"""
