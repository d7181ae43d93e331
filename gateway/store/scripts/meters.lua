-- For the scripts that enforce or show limits beyond the plain ones. Included inside of a block, after limits.lua,
-- permitted.lua, meter_counting.lua and overrides.lua. The including script defines the locals `team_hash` and `now`.
--
-- The field "rules" of a team's or a key's hash is JSON (accounts/rules.py):
--   {"rules": [[id, name, kind, value, pattern, period], ...], "local": ["day", ...], "zone": "...", "dated": true,
--    "overrides": [...], "ends": ..., "end_users": [...]}
-- `pattern`: of models, in lower case; "" for all. `period` of a budget: hour, day, week, month, quarter, total, or the
-- width in ms of a slot. A team's "local" names the periods of plain budgets that do not follow UTC. They are counted
-- in meters with the name of the budget as their id. "zone" changes with the team's time zone and anchor. "dated": its
-- days are not those of UTC. The team's field "calendar" has the times at which its periods begin and end, its "edges"
-- (accounts/periods.py). It is read only when a period begins.
-- A rule with an override (overrides.lua) has two more values: the value for a while, false for no limit, and until when.
-- Its own value is false if there is no limit otherwise. "ends" is the first field of rules that hold only for a while:
-- after that time (ms) they need not be read any more. "end_users" has rules of the same form, for each end user
-- separately (end_users.lua).

local NO_END = 9007199254740991
-- The rules that apply: { rule, meter, "key" or "team", limit or false, { until when, the limit after it } or nil }
local applied = {}
local calendar, lacks_calendar = nil, false

-- Returns the beginning and the end of the present period, and the number of its first edge. Returns nothing if the
-- calendar does not contain the period.
local function edges_around(period)
  if period == 'total' then return 0, NO_END end
  if period == 'hour' then
    local from = now - now % HOUR_MS
    return from, from + HOUR_MS
  end
  if calendar == nil then
    local text = redis.call('HGET', team_hash, 'calendar')
    calendar = text and cjson.decode(text) or { until_ms = 0 }
  end
  lacks_calendar = lacks_calendar or now >= calendar.until_ms
  local edges = calendar[period] or {}
  for at = 2, #edges do
    if now < edges[at] then return edges[at - 1], edges[at], at - 1 end
  end
  lacks_calendar = true
end

-- Returns the meter of a rule, brought up to now. A new meter begins now with the amount `used`. If the clock was set
-- back before the beginning of the meter's period, the period continues. If the time zone has changed, the counted
-- amount applies until the period's new end.
local function meter_of(rule, meter, limit, used, has_moved)
  local kind, period = rule[3], rule[6]
  if kind == OF_SLOTS then return meter or { kind, 0 } end
  if kind < OF_SLOTS then
    meter = meter or { kind, 0, now }
    drain(meter, 2, limit, now)
    if kind == OF_TOKENS then
      meter[4], meter[5], meter[6] = limit or 0, nil, nil
      if rule[8] then meter[4], meter[5], meter[6] = rule[7] or 0, rule[8], rule[4] or 0 end
    end
    return meter
  end
  if type(period) == 'number' then
    local slot = floor(now / period)
    if not meter then
      meter = { kind + OF_LAST_USD - OF_USD, period, slot }
      for at = NEWEST, OLDEST do meter[at] = 0 end
    end
    move_slots(meter, slot)
  elseif not meter or now >= meter[4] or has_moved then
    local from, till = edges_around(period)
    if not meter then return { kind, used, now, till or now } end
    if from and now >= meter[4] and meter[3] < from then meter[2], meter[3] = 0, from end
    meter[4] = till or meter[4]
  end
  return meter
end

-- Brings the meters of a scope up to now. `models` are the patterns that match the request; with nil all rules apply.
-- Removes from `limits` the plain budgets that are counted in meters. Returns the scope's meters. Meters of rules that
-- no longer exist are left out.
local function load_meters(name, scope, limits, compiled, of_team, meters, models)
  local before = meters or {}
  local kept = { zone = of_team.zone }
  local has_moved = before.zone ~= of_team.zone
  local function apply(rule, limit, used, over)
    local meter = meter_of(rule, before[rule[1]], limit, used, has_moved)
    kept[rule[1]] = meter
    applied[#applied + 1] = { rule, meter, name, limit, over }
  end
  for _, rule in ipairs(compiled.rules or {}) do
    local limit, until_ms, meter, over = rule[4], rule[8], before[rule[1]], nil
    if until_ms and now < until_ms then limit, over = rule[7], { until_ms, limit }
    elseif until_ms and meter and rule[3] < OF_SLOTS then pass_end(meter, 2, rule[7], until_ms, limit) end
    if not limit and not over then -- it was there for a while only
    elseif not models or permitted(rule[5], models) then apply(rule, limit, 0, over)
    else kept[rule[1]] = meter end
  end
  for _, period in ipairs(of_team['local'] or {}) do
    for i = 1, 2 * TOTAL do
      local limit, is_usd = limits[BUDGETS + i], i <= TOTAL
      local over = limits.over and limits.over[BUDGETS + i]
      if (limit or over and over[2]) and PERIODS[(i - 1) % TOTAL + 1] == period then
        local id = 'budget_' .. (is_usd and 'usd_' or 'tokens_') .. period
        apply({ id, id, is_usd and OF_USD or OF_UNITS, limit, '', period }, limit, scope[COUNTED[i]], over)
        limits[BUDGETS + i] = nil
      end
    end
  end
  return kept
end

-- Returns the number of the day in the team's time zone, or -1. `kept` stores it until the day ends.
local function today(before, kept)
  local date = before.zone == kept.zone and before.date
  if not date or now >= date[2] then
    local _, till, number = edges_around('day')
    date = till and { calendar.days_from + number - 1, till }
  end
  kept.date = date or nil
  return date and date[1] or -1
end

-- Returns the used amount, and the ms until a request of `usd` and `units` fits: 0 for now, -1 for never.
local function wait_for(entry, usd, units)
  local rule, meter, _, limit = unpack(entry)
  local kind = meter[1]
  if kind == OF_REQUESTS then return ceil(meter[2] / MINUTE_MS), bucket_wait(meter[2], limit, 1) end
  if kind == OF_TOKENS then return ceil(meter[2] / MINUTE_MS), units > 0 and bucket_wait(meter[2], limit, units) or 0 end
  if kind == OF_SLOTS then return meter[2], meter[2] < limit and 0 or limit > 0 and CONCURRENCY_WAIT_MS or -1 end
  local more = (kind == OF_USD or kind == OF_LAST_USD) and usd or units
  if kind < OF_LAST_USD then
    if more == 0 or meter[2] + more <= limit then return meter[2], 0 end
    return meter[2], (rule[6] == 'total' or more > limit) and -1 or meter[4] - now
  end
  local used, wait = 0, -1
  for at = NEWEST, OLDEST do used = used + meter[at] end
  if more == 0 or used + more <= limit then return used, 0 end
  local over = used + more - limit
  if more <= limit then
    for at = OLDEST, NEWEST, -1 do
      over = over - meter[at]
      if over <= 0 then
        wait = (meter[3] - at + NEWEST + SLOTS) * meter[2] - now
        break
      end
    end
  end
  return used, wait
end
