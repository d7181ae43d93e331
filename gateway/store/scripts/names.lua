-- The names of a scope's limits and counters by their places (common.lua, limits.lua), for the scripts that show them.

local LIMITS = {
  'rpm', 'tpm', 'concurrency', 'max_output_tokens',
  'budget_usd_hour', 'budget_usd_day', 'budget_usd_month', 'budget_usd_total',
  'budget_tokens_hour', 'budget_tokens_day', 'budget_tokens_month', 'budget_tokens_total',
  'queue_s', 'queue_length',
}
local COUNTERS = {
  [1] = 'open', [2] = 'total_usd', [3] = 'total_tokens', [5] = 'rq', [6] = 'rq_ms', [7] = 'tk', [8] = 'tk_ms',
  [9] = 'hour', [10] = 'day', [11] = 'month', [12] = 'hour_usd', [13] = 'day_usd', [14] = 'month_usd',
  [15] = 'hour_tokens', [16] = 'day_tokens', [17] = 'month_tokens',
}
