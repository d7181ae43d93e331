"""The client of Redis or Valkey. No other package accesses the store.

store           routes each call to the node of its keys, and restores connections topology        `store.url` -> nodes
and slots, by asking Sentinels or the cluster itself connection      one connection: one write per turn of the event
loop, replies in order script          loads a script's source from scripts/*.lua keyspace        the name and the TTL
of every key replies         turns an outage of the store into a GatewayError durability      whether the store may lose
data errors          the meaning of a store's error replies, as data embedded        the Valkey server that comes with
the package url             the forms of `store.url`
"""
