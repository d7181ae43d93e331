"""The settings: read once from the file and the environment, validated, with an explanation of every mistake.

settings            loads, merges and validates everything
sections            the sections that every gateway has
oidc_settings       [oidc]
upstream_settings   [upstreams.NAME]
route_settings      [[routes]]
price_settings      [prices."PATTERN"]
notice_settings     [notices] and [recipients.NAME]
environment_proxy   the forward proxy that the environment names
types               the types of single values: secrets, patterns, prices, proxies
errors              problems of a configuration and where they are
messages            messages about invalid values, and the name that was probably meant
positions           where each key stands in its file
"""
