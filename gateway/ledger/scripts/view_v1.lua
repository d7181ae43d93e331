-- view_v1: the numbers that are enforced, as they stand now; what admins and a key's owner are shown.
--
-- KEYS 1 team  2 state  3 holds  4 held  5 journal  [6 key]
-- ARGV 1 key id or ""  2 most expired holds to void
-- Holds of dead gateways are voided first, as the next admission would do.
-- Returns {now_ms, {money name, value...}, {team name, value...}, {key name, value...}}, the last two with every limit that is
--   set, every counter, `<period>_ends_ms`, and for each rate that is limited `<rate>_left` and `<rate>_reset_ms`.
--@include common
local now = server_ms()
local index = period_indices(now)
expire_holds(KEYS[2], KEYS[3], KEYS[4], KEYS[5], now, tonumber(ARGV[2]))

local c = load_state(KEYS[2], ARGV[1])

local function scope(hash, at)
  local limits = load_limits(hash)
  local out = {}
  local function put(name, value)
    out[#out + 1] = name
    out[#out + 1] = value
  end
  advance(c, at, limits, now, index)
  for i, name in ipairs(LIMITS) do if limits[i] then put(name, limits[i]) end end
  for i, name in ipairs(COUNTERS) do put('used_' .. name, c[at + i]) end
  for i, name in ipairs(PERIODS) do put(name .. '_ends_ms', period_end_ms(i, index[i])) end
  for i, level in ipairs({ c[at + RQ], c[at + TK] }) do
    if limits[i] then
      local left, reset = bucket_left(level, limits[i])
      put(LIMITS[i] .. '_left', left)
      put(LIMITS[i] .. '_reset_ms', reset)
    end
  end
  return out
end

local money = { 'granted', tonumber(redis.call('HGET', KEYS[2], 'granted') or '0') }
for i, name in ipairs({ 'available', 'held', 'spent' }) do
  money[#money + 1] = name
  money[#money + 1] = c[i]
end
return { now, money, scope(KEYS[1], TEAM), KEYS[6] and scope(KEYS[6], KEY) or {} }
