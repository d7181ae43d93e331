"""A request's way from the client to the provider and back: admission, failover, relay, and the one exit."""
