-- view_v2: the enforced numbers as they stand now, for admins and for a key's owner.
--
-- KEYS 1 team  2 state  [3 key]
-- ARGV 1 key id or ""  2 share of a minute's limit that may come at once, in thousandths
-- Returns {now_ms, {money name, value...}, {team name, value...}, {key name, value...}}. The last two contain every limit
--   that is set, every counter, `<period>_ends_ms`, and `<rate>_left` and `<rate>_reset_ms` of each limited rate.
--@reads
--@include common
--@include limits
--@include names
local now = server_ms()
burst = ARGV[2] / 1000
local available, held, team, key = load_state(KEYS[2], ARGV[1])

local function shown(hash, scope)
  local limits = load_limits(hash)
  local out = {}
  local function put(name, value)
    out[#out + 1] = name
    out[#out + 1] = value
  end
  advance(scope, limits, now)
  for i, name in ipairs(LIMITS) do if limits[i] then put(name, limits[i]) end end
  for at, name in pairs(COUNTERS) do put('used_' .. name, scope[at]) end
  for period = HOUR, MONTH do put(PERIODS[period] .. '_ends_ms', period_end_ms(period, scope[PERIOD + period])) end
  for limit, level in ipairs({ scope[RQ], scope[TK] }) do
    if limits[limit] then
      local left, reset = bucket_left(level, limits[limit])
      put(LIMITS[limit] .. '_left', left)
      put(LIMITS[limit] .. '_reset_ms', reset)
    end
  end
  return out
end

-- These two may exceed what a double can hold, so they are returned as they are stored.
local sums = redis.call('HMGET', KEYS[2], 'granted', 'spent')
return {
  now, { 'granted', sums[1] or 0, 'available', available, 'held', held, 'spent', sums[2] or 0 },
  shown(KEYS[1], team), KEYS[3] and shown(KEYS[3], key) or {},
}
