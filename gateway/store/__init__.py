"""The client of Redis or Valkey. No other package accesses the store.

store           sends each call to the node of its keys, and restores connections
topology        finds the nodes and slots of a store, by Sentinels or the cluster itself
connection      one connection: one write per turn of the event loop, replies in order
script          loads a script's source from scripts/*.lua
keyspace        the name and the lifetime of every key
replies         turns an outage of the store into a GatewayError
durability      whether the store may lose data
errors          the meaning of a store's error replies, as data
embedded        the Valkey server that comes with the package
url             the forms of `store.url`
"""
