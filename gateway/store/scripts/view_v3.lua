-- view_v3: returns the present state of credits, limits and counters, for admins and for a key's owner.
--
-- KEYS 1 team  2 state  [3 key]
-- ARGV 1 key id or ""  2 share of a minute's limit that may come at once, in thousandths
-- Returns {now_ms, {money name, value...}, {team name, value...}, {key name, value...}, {team's rule...}, {key's rule...},
--   1 if the team's calendar is to be written first}. The third and fourth contain every plain limit that is set, every
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
local available, held, team, key = load_state(KEYS[2], ARGV[1])
local team_rules, key_rules = redis.call('HGET', team_hash, 'rules'), KEYS[3] and redis.call('HGET', KEYS[3], 'rules')
-- override_of: applies the overrides of a scope; rules_of: returns its present rules; lacking: whether the calendar must
-- be written
local override_of, rules_of, lacking
if team_rules or key_rules then
--@include meter_counting
--@include overrides
--@include meters
  local of_team, of_key = team_rules and cjson.decode(team_rules) or {}, key_rules and cjson.decode(key_rules) or {}
  local before = read_meters(KEYS[2], ARGV[1])

  -- Returns the time at which all that a rule permits is left again, or 0.
  local function ends_at(meter, reset_ms)
    local kind = meter[1]
    if kind < OF_SLOTS then return reset_ms > 0 and now + reset_ms or 0 end
    if kind == OF_SLOTS then return 0 end
    if kind < OF_LAST_USD then return meter[4] == NO_END and 0 or meter[4] end
    for at = NEWEST, OLDEST do
      if meter[at] > 0 then return (meter[3] - at + NEWEST + SLOTS) * meter[2] end
    end
    return 0
  end

  function override_of(name, scope, limits) override(scope, limits, (name == 'key' and of_key or of_team).overrides, now) end

  function rules_of(name, scope, limits)
    local rows, is_key = {}, name == 'key'
    applied = {}
    load_meters(name, scope, limits, is_key and of_key or of_team, of_team, is_key and before.k or before.t, nil)
    lacking = lacks_calendar
    for _, entry in ipairs(applied) do
      local rule, meter, _, limit = unpack(entry)
      if limit then
        local used, left, reset_ms = wait_for(entry, 0, 0), nil, 0
        if meter[1] < OF_SLOTS then left, reset_ms = bucket_left(meter[2], limit) end
        rows[#rows + 1] = { rule[2], limit, used, left or max(0, limit - used), ends_at(meter, reset_ms) }
      end
    end
    return rows
  end
end

local function shown(hash, scope, name)
  local limits = load_limits(hash)
  local out = {}
  local function put(name, value)
    out[#out + 1] = name
    out[#out + 1] = value
  end
  if override_of then override_of(name, scope, limits) end
  advance(scope, limits, now)
  local rules = rules_of and rules_of(name, scope, limits) or {}
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
  return out, rules
end

-- A double cannot represent these two exactly if they are large, so they are returned as they are stored.
local sums = redis.call('HMGET', KEYS[2], 'granted', 'spent')
local of_team, team_rows = shown(team_hash, team, 'team')
local of_key, key_rows = {}, {}
if KEYS[3] then of_key, key_rows = shown(KEYS[3], key, 'key') end
return {
  now, { 'granted', sums[1] or 0, 'available', available, 'held', held, 'spent', sums[2] or 0 },
  of_team, of_key, team_rows, key_rows, lacking and 1 or 0,
}
