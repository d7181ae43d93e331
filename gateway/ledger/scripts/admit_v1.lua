-- admit_v1: may this request run? Checks everything, then reserves everything, or nothing at all.
--
-- KEYS 1 team  2 key  3 state  4 holds  5 held  6 journal  [7 client idempotency]
-- ARGV 1 hold id  2 key id  3 SHA-256 of the secret  4 patterns that match the model, the most specific first, one a line
--      5 hold, nano-USD  6 hold, tokens  7 max_output_tokens asked for, or -1  8 life of the hold, ms
--      9 1: decide only, reserve nothing  10 life of the idempotency mark, ms
--      11 output tokens in the hold  12 price of a million of them, nano-USD  13 most expired holds to void
-- Returns {1, admitted_ms, "", "", 0, 0, 0, available, hold nano-USD, hold tokens, 1: cut at the hold, rates...} or
--         {0, now_ms, code, scope, limit, used, wait_ms (-1: waiting does not help), available, the same...,
--           nano-USD that the least of credits and budgets has left, tokens that the least of budgets and tpm lets through}
--   rates: requests limit, left, reset_ms; tokens limit, left, reset_ms; of the scope with the least left (-1: no limit)
--
-- Of several limits in the way, the one that stays there longest refuses: who waits as long as it says gets through.
-- A request that does not say how much it wants holds no more output than its key and team may ask for.
--@include common

local CONCURRENCY_WAIT_MS = 1000 -- a guess: nobody knows when a slot is free
local NO_LIMIT = 9007199254740991
local team, key, state, holds, held, journal, mark = unpack(KEYS)
local hold_id, key_id, secret_hash = ARGV[1], ARGV[2], ARGV[3]
local amount, tokens, max_output = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local dry_run = ARGV[9] == '1'
local now = server_ms()
local index = period_indices(now)
local rates = { -1, -1, 0, -1, -1, 0 }
local available = 0
local metered = false
local cut = 0 -- 1: the key wants no stream to exceed its hold
local c, names, scopes -- the state; of key and team: { name, place in the state, limits, models }

-- Of the scope with the least left.
local function note_rates()
  for _, scope in ipairs(scopes) do
    local at, rpm, tpm = scope[2], scope[3][RPM], scope[3][TPM]
    if rpm then
      local left, reset = bucket_left(c[at + RQ], rpm)
      if rates[2] < 0 or left < rates[2] then rates[1], rates[2], rates[3] = rpm, left, reset end
    end
    if tpm then
      local left, reset = bucket_left(c[at + TK], tpm)
      if rates[5] < 0 or left < rates[5] then rates[4], rates[5], rates[6] = tpm, left, reset end
    end
  end
end

-- What a request could be made of that is to pass every credit and budget: nano-USD and tokens.
local function least_left()
  local usd, units = NO_LIMIT, NO_LIMIT
  if metered then usd = available end
  for _, scope in ipairs(scopes or {}) do
    local at, limits = scope[2], scope[3]
    for i = 1, 2 * TOTAL do
      local left = limits[BUDGETS + i] and limits[BUDGETS + i] - c[at + USD + i]
      if left and i <= TOTAL then usd = min(usd, left) elseif left then units = min(units, left) end
    end
    units = min(units, limits[TPM] or NO_LIMIT)
  end
  return usd, units
end

local function answer(admitted, code, scope, limit, used, wait_ms)
  return { admitted, now, code, scope, limit, used, wait_ms, available, amount, tokens, cut, unpack(rates) }
end
local function refuse(code, scope, limit, used, wait_ms)
  if scopes then note_rates() end
  local reply = answer(0, code, scope, limit or 0, used or 0, wait_ms or -1)
  reply[#reply + 1], reply[#reply + 2] = least_left()
  return reply
end

-- Who calls: unknown, disabled and expired read the same from outside.
local config =
  redis.call('HMGET', key, 'status', 'expires_ms', 'models', 's:' .. secret_hash, 'u:' .. secret_hash, 'cut_at_cap',
    unpack(LIMITS))
local team_config = redis.call('HMGET', team, 'status', 'expires_ms', 'models', 'metered', unpack(LIMITS))
local function dead(status, expires_ms)
  return status ~= 'active' or (tonumber(expires_ms or '0') or 0) ~= 0 and now >= tonumber(expires_ms)
end
local secret_until = tonumber(config[4] or false)
if not secret_until or (secret_until ~= 0 and now >= secret_until)
  or dead(config[1], config[2]) or dead(team_config[1], team_config[2]) then
  return refuse('invalid_api_key', 'key')
end

metered = team_config[4] ~= '0'
expire_holds(state, holds, held, journal, now, tonumber(ARGV[13]))

if config[6] == '1' then cut = 1 end
scopes = {
  { 'key', KEY, to_limits(config, 7), config[3] },
  { 'team', TEAM, to_limits(team_config, 5), team_config[3] },
}
c, names = load_state(state, key_id)
for _, scope in ipairs(scopes) do advance(c, scope[2], scope[3], now, index) end
available = c[AVAILABLE]

if mark then
  local first = redis.call('GET', mark)
  if first then
    local id, ended = string.match(first, '^(%S+) ?(.*)$')
    if ended ~= '' then return refuse('already_answered:' .. id, 'key') end
    if redis.call('HEXISTS', held, id) == 1 then return refuse('request_in_progress:' .. id, 'key', 0, 0, 1000) end
  end
end

-- Which model: an empty list allows all.
local function allowed(models)
  if not models or models == '' then return true end
  for pattern in string.gmatch(ARGV[4], '[^\n]+') do
    if string.find('\n' .. models .. '\n', '\n' .. pattern .. '\n', 1, true) then return true end
  end
  return false
end

local worst
local function consider(code, scope, limit, used, wait_ms)
  if not worst or worst.wait_ms >= 0 and (wait_ms < 0 or wait_ms > worst.wait_ms) then
    worst = { code = code, scope = scope, limit = limit, used = used, wait_ms = wait_ms }
  end
end

for _, scope in ipairs(scopes) do
  if not allowed(scope[4]) then consider('model_not_allowed', scope[1], 0, 0, -1) end
end
local output = tonumber(ARGV[11])
for _, scope in ipairs(scopes) do
  local cap = scope[3][MAX_OUTPUT]
  if cap and max_output > cap then
    consider('max_output_tokens', scope[1], cap, max_output, -1)
  elseif cap and max_output < 0 and output > cap then
    -- In two steps, since tokens x price may pass 2^53.
    local less, price = output - cap, tonumber(ARGV[12])
    amount = max(0, amount - less * floor(price / 1000000) - floor(less * (price % 1000000) / 1000000))
    tokens, output = tokens - less, cap
  end
end

for _, scope in ipairs(scopes) do
  local name, at, limits = scope[1], scope[2], scope[3]
  if limits[RPM] then
    local wait = bucket_wait(c[at + RQ], limits[RPM], 1)
    if wait ~= 0 then consider('rpm', name, limits[RPM], ceil(c[at + RQ] / MINUTE_MS), wait) end
  end
  if limits[TPM] then
    local wait = bucket_wait(c[at + TK], limits[TPM], tokens)
    if wait ~= 0 then consider('tpm', name, limits[TPM], ceil(c[at + TK] / MINUTE_MS), wait) end
  end
  local slots = limits[CONCURRENCY]
  if slots and c[at + OPEN] >= slots then
    consider('concurrency', name, slots, c[at + OPEN], slots > 0 and CONCURRENCY_WAIT_MS or -1)
  end
  for i = 1, 2 * TOTAL do
    local limit, used, more = limits[BUDGETS + i], c[at + USD + i], i <= TOTAL and amount or tokens
    if limit and used + more > limit then
      -- Waiting for the next period helps where the request fits into an empty one.
      local period, wait = (i - 1) % TOTAL + 1, -1
      if period ~= TOTAL and more <= limit then wait = period_end_ms(period, index[period]) - now end
      consider(LIMITS[BUDGETS + i], name, limit, used, wait)
    end
  end
end
if metered and available < amount then
  consider('credits', 'team', available, c[HELD], -1)
end
if worst then return refuse(worst.code, worst.scope, worst.limit, worst.used, worst.wait_ms) end
if dry_run then
  note_rates()
  return answer(1, '', '', 0, 0, 0)
end

local buckets = 0
for i, scope in ipairs(scopes) do
  local at, limits = scope[2], scope[3]
  c[at + OPEN] = c[at + OPEN] + 1
  if limits[RPM] then c[at + RQ] = c[at + RQ] + MINUTE_MS end
  if limits[TPM] then
    c[at + TK] = c[at + TK] + tokens * MINUTE_MS
    buckets = buckets + i
  end
  add_used(c, at, index, amount, tokens)
end
note_rates()
available = available - amount
c[AVAILABLE], c[HELD] = available, c[HELD] + amount
save_state(state, c, names)
redis.call('ZADD', holds, now + tonumber(ARGV[8]), hold_id)
redis.call('HSET', held, hold_id, format('%.0f %.0f %.0f %s %d', amount, tokens, now, key_id, buckets))
-- When each secret was last used, to the second: who still uses the old one after a rotation.
if now - (tonumber(config[5] or '0') or 0) >= 1000 then redis.call('HSET', key, 'u:' .. secret_hash, int(now)) end
if mark then redis.call('SET', mark, hold_id, 'PX', ARGV[10]) end
return answer(1, '', '', 0, 0, 0)
