"""The client's side: connections, requests and answers over HTTP/1.1.

connection       a client's connection under uvicorn
parser           bytes -> requests, with a bounded head
body_reader      reads long bodies straight into their buffer
request_cycle    one request and its answer, on the connection or as ASGI messages
client           what the handler uses to read a request and write its answer
head             HTTP/1.1 heads as bytes
disconnect       notices that the client of an ASGI server has left
client_address   the client's address behind trusted proxies
auth_throttle    limits wrong keys per address
"""
