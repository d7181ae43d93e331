"""Upstreams: transports to them, their health and their models. transport.py holds the map of the transports."""
