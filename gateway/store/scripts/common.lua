-- Shared by the ledger's scripts: server time, calendar periods (UTC), token buckets, and the counters of two scopes.
--
-- A scope is the team or one key. Its limits are fields of its own hash. Its counters are fields of the team's one
-- state hash; those of a key have the prefix "<key_id>:". All numbers are integers below 2^53, which Lua's doubles
-- represent exactly. As arguments of a command they are written in full (Lua's own `..` and tostring would not do
-- that). The only exception is -0, which is written "-0"; `0 - x` never yields it.
--
-- A rate is a token bucket (equivalent to GCRA). `level` is the used amount in units x 60000. It drains by `limit` per
-- millisecond, so that a full bucket drains evenly in one minute. Requests (rq) and tokens (tk) have one bucket each. A
-- budget counts, per calendar period, what requests admitted in that period have spent or hold.
--
-- While a script runs, a scope's counters are one array. names.lua lists their names by place:
--   scope[OPEN]  scope[TOKEN_LEVEL], followed by the time of that level
--   scope[USD + DAY], for the period scope[PERIOD + DAY]
-- The counters from REQUEST_LEVEL on are packed into one field "window", because a field for each took a quarter of a
-- script's time. Each call also pays for every function and table defined here. Functions for only some scripts are
-- therefore in limits.lua and resolving.lua.

local RPM, TPM = 1, 2 -- places in a scope's limits
local OPEN, TOTAL_USD, TOTAL_TOKENS, REQUEST_LEVEL, TOKEN_LEVEL, PERIOD, USD, TOKENS = 1, 2, 3, 5, 7, 8, 11, 14
local HOUR, DAY, MONTH = 1, 2, 3
local WINDOW_COUNTERS = 13 -- how many: those from REQUEST_LEVEL on, as one MessagePack array
local ARRAY_HEAD, EMPTY_WINDOW = '\157', '\157\0\0\0\0\0\0\0\0\0\0\0\0\0'
local LARGE = 4503599627370496 -- 2^52: twice as much, and doubles are no longer exact
local MINUTE_MS, HOUR_MS, DAY_MS = 60000, 3600000, 86400000
local floor, max, min = math.floor, math.max, math.min

local function server_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + floor(time[2] / 1000)
end

-- Returns the first day (since 1970-01-01) of a month, counted since year 0. Years are counted from March, so that the
-- leap day is the last of a year and five months always have 153 days.
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

-- Reads the money and the counters: available, held, the team's scope, the key's scope, and up to three more fields if
-- requested.
local function load_state(state, key_id, ...)
  local fields = redis.call('HMGET', state, 'available', 'held', 'open', 'total_usd', 'total_tokens', 'window',
    key_id .. ':open', key_id .. ':total_usd', key_id .. ':total_tokens', key_id .. ':window', ...)
  -- Unpacking starts behind the array's first byte, so that no second table is created. The first value is the end
  -- position.
  return (fields[1] or 0) + 0, (fields[2] or 0) + 0,
    {
      (fields[3] or 0) + 0, (fields[4] or 0) + 0, (fields[5] or 0) + 0,
      cmsgpack.unpack_limit(fields[6] or EMPTY_WINDOW, WINDOW_COUNTERS, 1),
    },
    {
      (fields[7] or 0) + 0, (fields[8] or 0) + 0, (fields[9] or 0) + 0,
      cmsgpack.unpack_limit(fields[10] or EMPTY_WINDOW, WINDOW_COUNTERS, 1),
    },
    fields[11], fields[12], fields[13]
end

-- Saves a total. If it is so large that a double is not exact, the store adds the change, with 64 bits.
local function save_large_total(state, field, scope)
  if scope.added then redis.call('HINCRBY', state, field, scope.added)
  else redis.call('HSET', state, field, scope[TOTAL_USD]) end
end

local function save_state(state, key_id, available, held, team, key, ...)
  if team.added or key.added then
    save_large_total(state, 'total_usd', team)
    save_large_total(state, key_id .. ':total_usd', key)
    redis.call('HSET', state, 'available', available, 'held', held,
      'open', team[OPEN], 'total_tokens', team[TOTAL_TOKENS],
      'window', ARRAY_HEAD .. cmsgpack.pack(unpack(team, REQUEST_LEVEL, REQUEST_LEVEL + WINDOW_COUNTERS - 1)),
      key_id .. ':open', key[OPEN], key_id .. ':total_tokens', key[TOTAL_TOKENS],
      key_id .. ':window', ARRAY_HEAD .. cmsgpack.pack(unpack(key, REQUEST_LEVEL, REQUEST_LEVEL + WINDOW_COUNTERS - 1)), ...)
    return
  end
  redis.call('HSET', state, 'available', available, 'held', held,
    'open', team[OPEN], 'total_usd', team[TOTAL_USD], 'total_tokens', team[TOTAL_TOKENS],
    'window', ARRAY_HEAD .. cmsgpack.pack(unpack(team, REQUEST_LEVEL, REQUEST_LEVEL + WINDOW_COUNTERS - 1)),
    key_id .. ':open', key[OPEN], key_id .. ':total_usd', key[TOTAL_USD], key_id .. ':total_tokens', key[TOTAL_TOKENS],
    key_id .. ':window', ARRAY_HEAD .. cmsgpack.pack(unpack(key, REQUEST_LEVEL, REQUEST_LEVEL + WINDOW_COUNTERS - 1)), ...)
end

-- Drains a bucket up to now. Without a limit nothing is counted, so a limit that is set later starts with an empty
-- bucket.
local function drain(scope, level, limit, now)
  local passed = now - scope[level + 1]
  if not limit then scope[level] = 0
  elseif passed > 0 then scope[level] = max(0, scope[level] - passed * limit) end
  if passed ~= 0 then scope[level + 1] = now end -- after a clock was set back, draining starts from there
end

-- Brings a scope's counters up to now: resets periods that have ended, and drains buckets if the limits are given. A
-- clock that was set back ends no period. The periods that were reached continue until it has caught up (`behind`).
local function advance(scope, limits, now)
  if limits then
    drain(scope, REQUEST_LEVEL, limits[RPM], now)
    drain(scope, TOKEN_LEVEL, limits[TPM], now)
  end
  local hour, day = floor(now / HOUR_MS), floor(now / DAY_MS)
  if scope[PERIOD + HOUR] > hour then
    scope.behind = true
    return
  end
  if scope[PERIOD + HOUR] ~= hour then
    scope[PERIOD + HOUR], scope[USD + HOUR], scope[TOKENS + HOUR] = hour, 0, 0
  end
  if scope[PERIOD + DAY] ~= day then
    scope[PERIOD + DAY], scope[USD + DAY], scope[TOKENS + DAY] = day, 0, 0
    local month = month_of(day)
    if scope[PERIOD + MONTH] ~= month then
      scope[PERIOD + MONTH], scope[USD + MONTH], scope[TOKENS + MONTH] = month, 0, 0
    end
  end
end

-- Adds usd and tokens to the total, and to each period that was the same when the request was admitted.
local function add_used(scope, admitted_ms, usd, tokens)
  local day, first = floor(admitted_ms / DAY_MS), nil
  if scope.behind or scope[PERIOD + HOUR] == floor(admitted_ms / HOUR_MS) then first = HOUR
  elseif scope[PERIOD + DAY] == day then first = DAY
  else first = scope[PERIOD + MONTH] == month_of(day) and MONTH or MONTH + 1 end
  for period = first, MONTH do
    scope[USD + period], scope[TOKENS + period] = scope[USD + period] + usd, scope[TOKENS + period] + tokens
  end
  if scope[TOTAL_USD] >= LARGE then scope.added = (scope.added or 0) + usd end
  scope[TOTAL_USD], scope[TOTAL_TOKENS] = scope[TOTAL_USD] + usd, scope[TOTAL_TOKENS] + tokens
end
