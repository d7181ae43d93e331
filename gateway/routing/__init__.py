"""From a model id to the upstreams that may serve it. Pure.

model_patterns   "provider/*" and other patterns
model_names      one reading of a model's name, however a caller spells it
field_policies   what callers may say that changes a price
router           routes, aliases and prices in force
affinity             sends what belongs together to the same place
preferences          the caller's wishes for upstreams
"""
