"""From a model id to the upstreams that may serve it. Pure.

model_patterns   "provider/*" and other patterns
router           routes, aliases and prices in force
affinity             sends what belongs together to the same place
preferences          the caller's wishes for upstreams
"""
