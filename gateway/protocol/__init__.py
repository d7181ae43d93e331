"""Wire formats: request bodies, server-sent events, usage, closing events, headers. Pure."""
