"""The client of Redis or Valkey. Only this package speaks to the store.

store           which node, is it up, bring it back           -> topology, connection
topology        `store.url` -> nodes and slots, by asking a Sentinel or the cluster itself
connection      one connection: one write per turn of the event loop, replies in order
script          loads a script's source from the package      -> scripts/*.lua
keyspace        the name and TTL of every key
replies         an outage of the store as a GatewayError
errors          what a failing store says, as data
embedded        the Valkey server that comes with the package
url             the forms of `store.url`
"""
