"""From a model id to the upstreams that may serve it. Pure."""
