"""What a gateway counts, for Prometheus.

    catalogue.py   every metric, as data; deploy/metrics.md is its rendering, and a test holds the two together
    numbers.py     one worker's counts: plain dictionaries, a few increments a request, no locks and no library
    sampling.py    what is only looked at when somebody asks: holds, spool, breakers, connections
    sharing.py     workers of one gateway tell each other their counts, so that any of them can answer for all
    exposition.py  counts -> prometheus-client's families -> text

prometheus-client's own multiprocess mode writes a file at each increment, which is more than all of admission costs.
Here a worker writes what it has once a second, and only where there are several.
"""
