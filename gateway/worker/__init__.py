"""A worker's background duties: following operators' orders, reloading the configuration, sampling, reporting."""
