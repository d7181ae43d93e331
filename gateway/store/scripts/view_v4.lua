-- view_v4: returns the present state of credits, limits and counters, for admins and for a key's owner.
--
-- KEYS 1 team  2 state  [3 key]
-- ARGV 1 key id or ""  2 share of a minute's limit that may come at once, in thousandths
-- Returns {now_ms, {money name, value...}, {team name, value...}, {key name, value...}, {team's rule...}, {key's rule...},
--   1 if the team's calendar is to be written first, {expiry of credits, ms, what is left of them...}, what has expired
--   of `granted` and is not yet taken out of it}. The third and fourth contain every plain limit that is set, every
--   counter, `<period>_ends_ms`, and `<rate>_left` and `<rate>_reset_ms` of each limited rate.
--   A rule: {name, limit, used, left, the server's time in ms at which all of it is left again, or 0} (meters.lua)
--@reads
--@include common
--@include limits
--@include names
--@include permitted
local now = server_ms()
burst = ARGV[2] / 1000
local team_hash = KEYS[1]
local available, held, team, key, packed_lots = load_state(KEYS[2], ARGV[1], 'lot_window')
local lots, expired = {}, 0
if packed_lots and packed_lots ~= '' then
--@include lots
  local stored = cmsgpack.unpack(packed_lots)
  local valid = without_expired(stored, available, now)
  lots, expired, available = lots_after(stored, now), available - valid, valid
end
local team_rules, key_rules = redis.call('HGET', team_hash, 'rules'), KEYS[3] and redis.call('HGET', KEYS[3], 'rules')
-- `apply_overrides` applies those of a scope. `present_rules` returns a scope's present rules. `calendar_is_due`: whether
-- the calendar must be written.
local apply_overrides, present_rules, calendar_is_due
if team_rules or key_rules then
--@include meter_counting
--@include overrides
--@include meters
--@include meter_rows
  local of_team, of_key = team_rules and cjson.decode(team_rules) or {}, key_rules and cjson.decode(key_rules) or {}
  local before = read_meters(KEYS[2], ARGV[1])

  function apply_overrides(name, scope, limits) override(scope, limits, (name == 'key' and of_key or of_team).overrides, now) end

  function present_rules(name, scope, limits)
    local is_key = name == 'key'
    applied = {}
    load_meters(name, scope, limits, is_key and of_key or of_team, of_team, is_key and before.k or before.t, nil)
    calendar_is_due = lacks_calendar
    return applied_rows()
  end
end

local function rows_of_scope(hash, scope, name)
  local limits = load_limits(hash)
  local rows = {}
  local function put(name, value)
    rows[#rows + 1] = name
    rows[#rows + 1] = value
  end
  if apply_overrides then apply_overrides(name, scope, limits) end
  advance(scope, limits, now)
  local rules = present_rules and present_rules(name, scope, limits) or {}
  for i, name in ipairs(LIMITS) do if limits[i] then put(name, limits[i]) end end
  for at, name in pairs(COUNTERS) do put('used_' .. name, scope[at]) end
  for period = HOUR, MONTH do put(PERIODS[period] .. '_ends_ms', period_end_ms(period, scope[PERIOD + period])) end
  for limit, level in ipairs({ scope[REQUEST_LEVEL], scope[TOKEN_LEVEL] }) do
    if limits[limit] then
      local left, reset = bucket_left(level, limits[limit])
      put(LIMITS[limit] .. '_left', left)
      put(LIMITS[limit] .. '_reset_ms', reset)
    end
  end
  return rows, rules
end

-- A double cannot represent these two exactly if they are large, so they are returned as they are stored.
local large_sums = redis.call('HMGET', KEYS[2], 'granted', 'spent')
local of_team, team_rows = rows_of_scope(team_hash, team, 'team')
local of_key, key_rows = {}, {}
if KEYS[3] then of_key, key_rows = rows_of_scope(KEYS[3], key, 'key') end
return {
  now, { 'granted', large_sums[1] or 0, 'available', available, 'held', held, 'spent', large_sums[2] or 0 },
  of_team, of_key, team_rows, key_rows, calendar_is_due and 1 or 0, lots, expired,
}
