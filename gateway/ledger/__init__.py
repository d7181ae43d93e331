"""The ledger and the store that it lives in.

    keyspace        every key's name and TTL
    scripts/*.lua   what happens atomically, each with one typed wrapper here
    script          loads a script's source from the package
    store           Store: which node, is it up, bring it back         -> topology, link
    topology        store.url -> nodes and slots, by asking a Sentinel or the cluster itself
    link            one connection: a write per turn of the event loop, replies in order
    faults          what a failing store says, as data
    embedded        the Valkey server that comes with the package

Only this package speaks to the store.
"""
