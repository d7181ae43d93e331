"""A worker's background duties: following operators' orders, reloading the configuration, sampling, reporting.

parts               builds the parts of a worker from the settings background          the table of background work
store_inspection    checks whether the store may lose data control_loop        follows orders, reloads, reports
cluster_state       orders and reports in the store signals             SIGHUP, SIGTERM, SIGINT metrics_collector   adds
up the metrics of all workers gauges              samples the state of the parts
"""
