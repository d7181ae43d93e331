"""What operators look at: usage, outcomes, refusals, recent and live requests, the audit log.

usage_rollups      usage by hour and day, written by settlement
attributed_usage   usage by tag and end user, written by settlement
report_steps       hours, and days of a time zone
outcome_rollups    outcomes, refusals and durations by hour and day
latency_buckets    durations as counts in fixed buckets
recent_requests    the last requests of a team or of all teams
refused_requests   the last refusals of each team
request_search     finds a request by the id of its response or the upstream's request id
request_timings    how long the parts of a team's last requests took
live_requests      finished requests as a stream, while somebody watches
request_reporter   writes a worker's finished requests to the places above
audit_log          what admins changed
csv_text           rows as CSV without formulas
parquet            rows as a Parquet file
"""
