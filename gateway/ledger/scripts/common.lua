-- Shared by the ledger's scripts: server time, calendar periods (UTC), token buckets, and one scope's counters.
--
-- A scope is the team or one key. Its limits are fields of its own hash; its counters are fields of the team's one state
-- hash, a key's with the prefix "<key_id>:". All numbers are integers below 2^53, which Lua's doubles hold exactly.
--
-- A rate is a token bucket (GCRA's twin): `level` is what is used, in units x 60000; it drains `limit` a millisecond, so a
-- full bucket drains in one minute, smoothly. Requests (rq) and tokens (tk) have a bucket each.
-- A budget counts, per calendar period, what was spent or is held by requests admitted in that period.

local LIMITS = {
  'rpm', 'tpm', 'concurrency', 'max_output_tokens',
  'budget_usd_hour', 'budget_usd_day', 'budget_usd_month', 'budget_usd_total',
  'budget_tokens_hour', 'budget_tokens_day', 'budget_tokens_month', 'budget_tokens_total',
}
local COUNTERS = {
  'open', 'rq', 'rq_ms', 'tk', 'tk_ms',
  'hour', 'hour_usd', 'hour_tokens', 'day', 'day_usd', 'day_tokens',
  'month', 'month_usd', 'month_tokens', 'total_usd', 'total_tokens',
}
local PERIODS = { 'hour', 'day', 'month' }
local MINUTE_MS, HOUR_MS, DAY_MS = 60000, 3600000, 86400000
local floor, ceil, max, min = math.floor, math.ceil, math.max, math.min

-- A number as Redis reads integers. `+ 0` makes of the double's -0, which prints "-0", a plain 0.
local function int(number) return string.format('%.0f', number + 0) end

local function server_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + floor(tonumber(time[2]) / 1000)
end

-- Months since year 0, and the first day (since 1970-01-01) of the next month. Years are counted from March, so that the
-- leap day is a year's last and 153 days are always five months.
local function first_day(month)
  local year = floor((month - 2) / 12)
  local since_march = (month - 2) % 12
  local leaps = floor(year / 4) - floor(year / 100) + floor(year / 400)
  return year * 365 + leaps + floor((since_march * 153 + 2) / 5) - 719468
end

local function month_of(day)
  local month = floor((day + 719528) / 30.436875)
  while first_day(month) > day do month = month - 1 end
  while first_day(month + 1) <= day do month = month + 1 end
  return month
end

local function period_indices(now)
  local day = floor(now / DAY_MS)
  return { hour = floor(now / HOUR_MS), day = day, month = month_of(day) }
end

local function period_end_ms(period, index)
  if period == 'hour' then return (index + 1) * HOUR_MS end
  if period == 'day' then return (index + 1) * DAY_MS end
  return first_day(index + 1) * DAY_MS
end

local function numbers(names, values)
  local out = {}
  for i, name in ipairs(names) do out[name] = tonumber(values[i] or false) end
  return out
end

local function load_limits(hash) return numbers(LIMITS, redis.call('HMGET', hash, unpack(LIMITS))) end

-- Drains a bucket to now. Without a limit nothing is counted, so that a limit set later starts with an empty bucket.
local function drain(c, level, at, limit, now)
  c[level] = limit and max(0, c[level] - max(0, now - c[at]) * limit) or 0
  c[at] = max(now, c[at])
end

-- One scope's counters as they stand now: periods that have ended reset, buckets drained (where the limits are given).
local function load_counters(state, prefix, limits, now, index)
  local fields = {}
  for i, name in ipairs(COUNTERS) do fields[i] = prefix .. name end
  local c = numbers(COUNTERS, redis.call('HMGET', state, unpack(fields)))
  for _, name in ipairs(COUNTERS) do c[name] = c[name] or 0 end
  if limits then
    drain(c, 'rq', 'rq_ms', limits.rpm, now)
    drain(c, 'tk', 'tk_ms', limits.tpm, now)
  end
  for _, period in ipairs(PERIODS) do
    if c[period] ~= index[period] then
      c[period], c[period .. '_usd'], c[period .. '_tokens'] = index[period], 0, 0
    end
  end
  return c
end

local function save_counters(state, prefix, c)
  local pairs_out = {}
  for i, name in ipairs(COUNTERS) do
    pairs_out[2 * i - 1] = prefix .. name
    pairs_out[2 * i] = int(c[name])
  end
  redis.call('HSET', state, unpack(pairs_out))
end

-- Adds to what is used: usd and tokens in every period that still is the one of admission, and in total.
local function add_used(c, admitted, usd, tokens)
  for _, period in ipairs(PERIODS) do
    if c[period] == admitted[period] then
      c[period .. '_usd'] = c[period .. '_usd'] + usd
      c[period .. '_tokens'] = c[period .. '_tokens'] + tokens
    end
  end
  c.total_usd = c.total_usd + usd
  c.total_tokens = c.total_tokens + tokens
end

-- Whole units left in a bucket, and milliseconds until it is empty of use.
local function bucket_left(level, limit)
  if limit == 0 then return 0, 0 end
  return max(0, floor((limit * MINUTE_MS - level) / MINUTE_MS)), ceil(level / limit)
end

-- Milliseconds until `units` more fit into the bucket: 0 now, -1 never.
local function bucket_wait(level, limit, units)
  if limit == 0 or units > limit then return -1 end
  return max(0, ceil((level + units * MINUTE_MS - limit * MINUTE_MS) / limit))
end

-- A hold as it is kept: "amount tokens admitted_ms key_id buckets"; buckets that hold its tokens: 1 the key's, 2 the team's, 3.
local function parse_hold(text)
  local amount, tokens, admitted, key_id, buckets = string.match(text, '^(%d+) (%d+) (%d+) (%w+) (%d)$')
  return {
    amount = tonumber(amount), tokens = tonumber(tokens), admitted_ms = tonumber(admitted), key_id = key_id,
    in_key_bucket = buckets % 2 == 1, in_team_bucket = buckets + 0 >= 2,
  }
end

-- A bucket with the tokens really used in place of those reserved. Reserved tokens drain like used ones; giving back what has
-- drained already would take away what others used: at most what can be left of the reservation leaves the bucket.
local function corrected(level, hold, reserved, tokens, limit, now)
  if not reserved then return level + tokens * MINUTE_MS end
  if tokens >= hold.tokens then return level + (tokens - hold.tokens) * MINUTE_MS end
  local left = max(0, hold.tokens * MINUTE_MS - max(0, now - hold.admitted_ms) * limit)
  return max(0, level - min((hold.tokens - tokens) * MINUTE_MS, left))
end

-- Resolves a hold: its money back to `available`, its slot and its share of the budgets freed, and the cost posted, in one.
-- The buckets keep the tokens really used. `limits` of team and key; nil leaves the buckets alone: tokens reserved by a
-- gateway that died count as used, and drain.
local function resolve(state, hold, now, team_limits, key_limits, cost, tokens, slots)
  local index, admitted = period_indices(now), period_indices(hold.admitted_ms)
  local scopes = {
    { '', team_limits, hold.in_team_bucket },
    { hold.key_id .. ':', key_limits, hold.in_key_bucket },
  }
  for _, scope in ipairs(scopes) do
    local limits = scope[2]
    local c = load_counters(state, scope[1], limits, now, index)
    c.open = max(0, c.open - slots)
    if limits and limits.tpm then c.tk = corrected(c.tk, hold, scope[3], tokens, limits.tpm, now) end
    add_used(c, admitted, cost - hold.amount, tokens - hold.tokens)
    save_counters(state, scope[1], c)
  end
  local available = redis.call('HINCRBY', state, 'available', int(hold.amount - cost))
  local held = redis.call('HINCRBY', state, 'held', int(-hold.amount))
  if cost ~= 0 then redis.call('HINCRBY', state, 'spent', int(cost)) end
  return available + held
end

-- Resolves up to `most` holds whose gateway died: voided, and journalled as expired. Returns how many.
local function expire_holds(state, holds, held, journal, now, most)
  local dead = redis.call('ZRANGEBYSCORE', holds, '-inf', now, 'LIMIT', 0, most)
  for _, id in ipairs(dead) do
    local text = redis.call('HGET', held, id)
    redis.call('ZREM', holds, id)
    redis.call('HDEL', held, id)
    if text then
      local hold = parse_hold(text)
      local balance = resolve(state, hold, now, nil, nil, 0, 0, 1)
      redis.call('XADD', journal, '*', 'type', 'expire', 'id', id, 'key', hold.key_id, 'amount', '0',
        'balance', int(balance), 'hold', int(hold.amount))
    end
  end
  return #dead
end
