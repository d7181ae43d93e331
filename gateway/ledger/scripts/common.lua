-- Shared by the ledger's scripts: server time, calendar periods (UTC), token buckets, and the counters of two scopes.
--
-- A scope is the team or one key. Its limits are fields of its own hash; its counters are fields of the team's one state
-- hash, a key's with the prefix "<key_id>:". All numbers are integers below 2^53, which Lua's doubles hold exactly.
--
-- A rate is a token bucket (GCRA's twin): `level` is what is used, in units x 60000; it drains `limit` a millisecond, so a
-- full bucket drains in one minute, smoothly. Requests (rq) and tokens (tk) have a bucket each.
-- A budget counts, per calendar period, what was spent or is held by requests admitted in that period.
--
-- The state is read by one command and written by one, and is an array meanwhile: names looked up and put together cost
-- more than the sums. `c` is that array: money, the team's counters behind TEAM, the key's behind KEY:
--   c[HELD]  c[TEAM + OPEN]  c[KEY + USD + MONTH]
-- What a scope counts for a while only is packed into its one field "window": a field each cost a script a quarter of its time.

local LIMITS = {
  'rpm', 'tpm', 'concurrency', 'max_output_tokens',
  'budget_usd_hour', 'budget_usd_day', 'budget_usd_month', 'budget_usd_total',
  'budget_tokens_hour', 'budget_tokens_day', 'budget_tokens_month', 'budget_tokens_total',
}
local RPM, TPM, CONCURRENCY, MAX_OUTPUT, BUDGETS = 1, 2, 3, 4, 4 -- eight budgets, each beside its counter: USD + i
local COUNTERS = {
  'open', 'rq', 'rq_ms', 'tk', 'tk_ms', 'hour', 'day', 'month',
  'hour_usd', 'day_usd', 'month_usd', 'total_usd',
  'hour_tokens', 'day_tokens', 'month_tokens', 'total_tokens',
}
local OPEN, RQ, TK, PERIOD, USD, TOKENS = 1, 2, 4, 5, 8, 12
local HOUR, DAY, MONTH, TOTAL = 1, 2, 3, 4
local PERIODS = { 'hour', 'day', 'month' }
local AVAILABLE, HELD, SPENT = 1, 2, 3
local TEAM, KEY = 3, 19
local PLAIN = { 1, 12, 16 } -- counters that are a field each: what `gateway ledger verify` adds up
local PACKED = { 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15 } -- counters in "window", in this order
local MINUTE_MS, HOUR_MS, DAY_MS = 60000, 3600000, 86400000
local floor, ceil, max, min, format, tonumber = math.floor, math.ceil, math.max, math.min, string.format, tonumber

-- A number as Redis reads integers. `+ 0` makes of the double's -0, which prints "-0", a plain 0.
local function int(number) return format('%.0f', number + 0) end

local function server_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + floor(time[2] / 1000)
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

-- Which hour, day and month a time lies in, since 1970.
local function period_indices(now)
  local day = floor(now / DAY_MS)
  return { floor(now / HOUR_MS), day, month_of(day) }
end

local function period_end_ms(period, index)
  if period == HOUR then return (index + 1) * HOUR_MS end
  if period == DAY then return (index + 1) * DAY_MS end
  return first_day(index + 1) * DAY_MS
end

-- Limits from a reply to HMGET, in which those that are not set are false: an array in the order of LIMITS.
local function to_limits(reply, first)
  local limits = {}
  for i = 1, #LIMITS do
    local value = reply[first + i - 1]
    limits[i] = value and tonumber(value)
  end
  return limits
end

local function load_limits(hash) return to_limits(redis.call('HMGET', hash, unpack(LIMITS)), 1) end

-- The limits that resolving needs: RPM and TPM.
local function load_rates(hash)
  local reply = redis.call('HMGET', hash, 'rpm', 'tpm')
  return { reply[1] and tonumber(reply[1]), reply[2] and tonumber(reply[2]) }
end

-- The state as it was written, and its fields' names.
local function load_state(state, key_id)
  local names = {
    'available', 'held', 'spent', 'open', 'total_usd', 'total_tokens', 'window',
    key_id .. ':open', key_id .. ':total_usd', key_id .. ':total_tokens', key_id .. ':window',
  }
  local fields = redis.call('HMGET', state, unpack(names))
  local c = {}
  for i = 1, 3 do c[i] = tonumber(fields[i] or 0) end
  local next = 4
  for at = TEAM, KEY, KEY - TEAM do
    for i = 1, #PLAIN do c[at + PLAIN[i]] = tonumber(fields[next + i - 1] or 0) end
    local window = fields[next + #PLAIN]
    local counted = window and cmsgpack.unpack(window)
    for i = 1, #PACKED do c[at + PACKED[i]] = counted and counted[i] or 0 end
    next = next + #PLAIN + 1
  end
  return c, names
end

local function save_state(state, c, names)
  local fields, next = {}, 0
  local function put(value)
    next = next + 1
    fields[2 * next - 1], fields[2 * next] = names[next], value
  end
  for i = 1, 3 do put(int(c[i])) end
  for at = TEAM, KEY, KEY - TEAM do
    for i = 1, #PLAIN do put(int(c[at + PLAIN[i]])) end
    local counted = {}
    for i = 1, #PACKED do counted[i] = c[at + PACKED[i]] end
    put(cmsgpack.pack(counted))
  end
  redis.call('HSET', state, unpack(fields))
end

-- Drains a bucket to now. Without a limit nothing is counted, so that a limit set later starts with an empty bucket.
local function drain(c, level, limit, now)
  local at = c[level + 1]
  c[level] = limit and max(0, c[level] - max(0, now - at) * limit) or 0
  if now > at then c[level + 1] = now end
end

-- Brings a scope's counters to now: periods that have ended reset, buckets drained (where the limits are given).
local function advance(c, scope, limits, now, index)
  if limits then
    drain(c, scope + RQ, limits[RPM], now)
    drain(c, scope + TK, limits[TPM], now)
  end
  for period = HOUR, MONTH do
    if c[scope + PERIOD + period] ~= index[period] then
      c[scope + PERIOD + period], c[scope + USD + period], c[scope + TOKENS + period] = index[period], 0, 0
    end
  end
end

-- Adds to what is used: usd and tokens in every period that still is the one of admission, and in total.
local function add_used(c, scope, admitted, usd, tokens)
  for period = HOUR, TOTAL do
    if period == TOTAL or c[scope + PERIOD + period] == admitted[period] then
      c[scope + USD + period] = c[scope + USD + period] + usd
      c[scope + TOKENS + period] = c[scope + TOKENS + period] + tokens
    end
  end
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
  local c, names = load_state(state, hold.key_id)
  local index = period_indices(now)
  local admitted = floor(hold.admitted_ms / HOUR_MS) == index[HOUR] and index or period_indices(hold.admitted_ms)
  for _, scope in ipairs({ TEAM, KEY }) do
    local limits = scope == TEAM and team_limits or scope == KEY and key_limits or nil
    advance(c, scope, limits, now, index)
    c[scope + OPEN] = max(0, c[scope + OPEN] - slots)
    if limits and limits[TPM] then
      local reserved = scope == TEAM and hold.in_team_bucket or scope == KEY and hold.in_key_bucket
      c[scope + TK] = corrected(c[scope + TK], hold, reserved, tokens, limits[TPM], now)
    end
    add_used(c, scope, admitted, cost - hold.amount, tokens - hold.tokens)
  end
  c[AVAILABLE] = c[AVAILABLE] + hold.amount - cost
  c[HELD] = c[HELD] - hold.amount
  c[SPENT] = c[SPENT] + cost
  save_state(state, c, names)
  return c[AVAILABLE] + c[HELD]
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
