"""The metrics of a gateway, for Prometheus.

    catalogue.py      every metric as data; deploy/metrics.md is generated from it, and a test compares the two
    counters.py       one worker's counters: plain dictionaries, a few increments per request, no locks, no library
    multiprocess.py   shares the workers' counters, so that any worker can answer for all
    exposition.py     counters -> prometheus-client's families -> text

worker/gauges.py samples what is looked at only when metrics are scraped: holds, spool, breakers, connections.

prometheus-client's own multiprocess mode writes to a file at each increment, which costs more than a whole admission. A
worker of this gateway writes its counters once per second, and only if there are several workers.
"""
