"""From a model id to the upstreams that may serve it. Pure.

model_patterns   "provider/*" and other patterns
router           routes, aliases and prices in force
"""
