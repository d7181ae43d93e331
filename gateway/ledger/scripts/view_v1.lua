-- view_v1: the numbers that are enforced, as they stand now; what admins and a key's owner are shown.
--
-- KEYS 1 team  2 state  3 holds  4 held  5 journal  [6 key]
-- ARGV 1 key id or ""
-- Holds of dead gateways are voided first, as the next admission would do.
-- Returns {now_ms, {money name, value...}, {team name, value...}, {key name, value...}}, the last two with every limit that is
--   set, every counter, `<period>_ends_ms`, and for each rate that is limited `<rate>_left` and `<rate>_reset_ms`.
--@include common
local now = server_ms()
local index = period_indices(now)
expire_holds(KEYS[2], KEYS[3], KEYS[4], KEYS[5], now, 100)

local function scope(hash, prefix)
  local limits = load_limits(hash)
  local c = load_counters(KEYS[2], prefix, limits, now, index)
  local out = {}
  local function put(name, value)
    out[#out + 1] = name
    out[#out + 1] = value
  end
  for _, name in ipairs(LIMITS) do if limits[name] then put(name, limits[name]) end end
  for _, name in ipairs(COUNTERS) do put('used_' .. name, c[name]) end
  for _, period in ipairs(PERIODS) do put(period .. '_ends_ms', period_end_ms(period, index[period])) end
  for rate, level in pairs({ rpm = c.rq, tpm = c.tk }) do
    if limits[rate] then
      local left, reset = bucket_left(level, limits[rate])
      put(rate .. '_left', left)
      put(rate .. '_reset_ms', reset)
    end
  end
  return out
end

local names = { 'granted', 'available', 'held', 'spent' }
local values = numbers(names, redis.call('HMGET', KEYS[2], unpack(names)))
local money = {}
for _, name in ipairs(names) do
  money[#money + 1] = name
  money[#money + 1] = values[name] or 0
end
return { now, money, scope(KEYS[1], ''), KEYS[6] and scope(KEYS[6], ARGV[1] .. ':') or {} }
