-- For the scripts that enforce or show limits: reads the limits of a team and a key, and calculates what is left.

-- places in a scope's limits after RPM and TPM; the eight budgets are at BUDGETS + i
local CONCURRENCY, MAX_OUTPUT, BUDGETS = 3, 4, 4
local QUEUE_S, QUEUE_LENGTH, LAST_LIMIT = 13, 14, 14
local COUNTED = { 12, 13, 14, 2, 15, 16, 17, 3 } -- places of the counters that belong to the budgets
local PERIODS, TOTAL = { 'hour', 'day', 'month', 'total' }, 4
local CONCURRENCY_WAIT_MS = 1000 -- an estimate: a request may end at any time
local ceil = math.ceil

-- Loads a scope's limits as numbers, followed by the other requested fields.
local function load_limits(hash, ...)
  local limits = redis.call('HMGET', hash, 'rpm', 'tpm', 'concurrency', 'max_output_tokens',
    'budget_usd_hour', 'budget_usd_day', 'budget_usd_month', 'budget_usd_total',
    'budget_tokens_hour', 'budget_tokens_day', 'budget_tokens_month', 'budget_tokens_total', 'queue_s', 'queue_length', ...)
  for i = 1, LAST_LIMIT do limits[i] = limits[i] and tonumber(limits[i]) end
  return limits
end

local function period_end_ms(period, index)
  if period == HOUR then return (index + 1) * HOUR_MS end
  if period == DAY then return (index + 1) * DAY_MS end
  return first_day(index + 1) * DAY_MS
end

local burst = 1 -- the share of a minute's limit that may be used at once; each script sets it

-- Returns the milliseconds until `units` more fit into the bucket: 0 for now, -1 for never. An amount larger than a
-- burst fits into an empty bucket.
local function bucket_wait(level, limit, units)
  if limit == 0 or units > limit then return -1 end
  return max(0, ceil((level + units * MINUTE_MS - max(limit * burst, units) * MINUTE_MS) / limit))
end

-- Returns the whole units left in a bucket, and the milliseconds until it is empty.
local function bucket_left(level, limit)
  if limit == 0 then return 0, 0 end
  return max(0, floor((max(limit * burst, 1) * MINUTE_MS - level) / MINUTE_MS)), ceil(level / limit)
end
