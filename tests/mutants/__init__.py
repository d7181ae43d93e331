"""Protections that are switched off one at a time, to see that a test misses each: protections.py, runner.py."""
