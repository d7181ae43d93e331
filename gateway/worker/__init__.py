"""A worker's background work: it follows operators' orders, reloads the configuration, samples and reports its state.

services            the services of one worker
parts               builds the parts of a worker from the settings
background          lists the background work
store_inspection    checks whether the store may lose data
control_loop        follows orders, reloads, reports
cluster_state       orders and reports in the store
signals             SIGHUP, SIGTERM, SIGINT
metrics_collector   adds up the metrics of all workers
gauges              samples the state of the parts
"""
