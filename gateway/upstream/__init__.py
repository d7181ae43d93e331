"""Upstreams: the connections to them, their health and their models.

transport         the interface of a connection pool to one upstream
factory           selects an implementation
pool              the native implementation: keep-alive HTTP/1.1 connections to one origin
http1             one native connection
answer            an answer that arrives on it
buffered_answer   an answer whose body has been read
request_head      request heads as bytes
origin            base URLs and TLS trust
dial              TCP connections by Happy Eyeballs
httpx_transport   the same interface over httpx, for HTTP/2 and forward proxies
httpcore_inside   the parts of httpcore that it needs
upstream          one upstream: transport, health and keys
health            circuit breakers and resting keys
model_list        the models that upstreams offer
"""
