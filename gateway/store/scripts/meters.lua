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
--@include rule_fields
-- The rules that apply: { rule, meter, "key" or "team" or "end_user", limit or false, the end of its override or nil
-- (overrides.lua), the scope of an end user's entry or nil (end_users.lua) }
local RULE, METER, SCOPE, LIMIT, OVERRIDE_END, END_USER_SCOPE = 1, 2, 3, 4, 5, 6
local applied = {}
local calendar, lacks_calendar = nil, false

-- Returns the beginning and the end of the present period, and the number of its first edge. Returns nothing if the
-- calendar does not contain the period.
local function period_bounds(period)
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
local function meter_of(rule, meter, limit, used, zone_changed)
  local kind, period = rule[RULE_KIND], rule[RULE_PERIOD]
  if kind == KIND_RUNNING then return meter or { kind, 0 } end
  if kind < KIND_RUNNING then
    meter = meter or { kind, 0, now }
    drain(meter, METER_USED, limit, now)
    if kind == KIND_TOKENS then
      meter[TOKEN_LIMIT], meter[TOKEN_LIMIT_END], meter[TOKEN_LIMIT_AFTER] = limit or 0, nil, nil
      if rule[RULE_OVERRIDE_END] then
        meter[TOKEN_LIMIT], meter[TOKEN_LIMIT_END] = rule[RULE_OVERRIDE] or 0, rule[RULE_OVERRIDE_END]
        meter[TOKEN_LIMIT_AFTER] = rule[RULE_VALUE] or 0
      end
    end
    return meter
  end
  if type(period) == 'number' then
    local slot = floor(now / period)
    if not meter then
      meter = { kind + KIND_LAST_USD - KIND_USD, period, slot }
      for at = NEWEST, OLDEST do meter[at] = 0 end
    end
    move_slots(meter, slot)
  elseif not meter or now >= meter[PERIOD_END] or zone_changed then
    local from, to = period_bounds(period)
    if not meter then return { kind, used, now, to or now } end
    if from and now >= meter[PERIOD_END] and meter[PERIOD_BEGIN] < from then
      meter[METER_USED], meter[PERIOD_BEGIN] = 0, from
    end
    meter[PERIOD_END] = to or meter[PERIOD_END]
  end
  return meter
end

-- Brings the meters of a scope up to now. `models` are the patterns that match the request; with nil all rules apply.
-- Removes from `limits` the plain budgets that are counted in meters. Returns the scope's meters. Meters of rules that
-- no longer exist are left out.
local function load_meters(name, scope, limits, compiled, team_compiled, meters, models)
  local before = meters or {}
  local kept = { zone = team_compiled.zone }
  local zone_changed = before.zone ~= team_compiled.zone
  local function apply(rule, limit, used, override_end)
    local meter = meter_of(rule, before[rule[RULE_ID]], limit, used, zone_changed)
    kept[rule[RULE_ID]] = meter
    applied[#applied + 1] = { rule, meter, name, limit, override_end }
  end
  for _, rule in ipairs(compiled.rules or {}) do
    local limit, until_ms, meter, override_end = rule[RULE_VALUE], rule[RULE_OVERRIDE_END], before[rule[RULE_ID]], nil
    if until_ms and now < until_ms then limit, override_end = rule[RULE_OVERRIDE], { until_ms, limit }
    elseif until_ms and meter and rule[RULE_KIND] < KIND_RUNNING then
      pass_override_end(meter, METER_USED, rule[RULE_OVERRIDE], until_ms, limit)
    end
    if not limit and not override_end then -- the limit held only for a while
    elseif not models or permitted(rule[RULE_PATTERN], models) then apply(rule, limit, 0, override_end)
    else kept[rule[RULE_ID]] = meter end
  end
  for _, period in ipairs(team_compiled['local'] or {}) do
    for i = 1, 2 * TOTAL do
      local limit, is_usd = limits[BUDGETS + i], i <= TOTAL
      local override_end = limits.overridden and limits.overridden[BUDGETS + i]
      if (limit or override_end and override_end[LIMIT_AFTER]) and PERIODS[(i - 1) % TOTAL + 1] == period then
        local id = 'budget_' .. (is_usd and 'usd_' or 'tokens_') .. period
        apply({ id, id, is_usd and KIND_USD or KIND_BUDGET_TOKENS, limit, '', period }, limit, scope[COUNTED[i]], override_end)
        limits[BUDGETS + i] = nil
      end
    end
  end
  return kept
end

-- Returns the number of the day in the team's time zone, or -1. `kept` stores it until the day ends.
local function local_day(before, kept)
  local date = before.zone == kept.zone and before.date
  if not date or now >= date[2] then
    local _, to, number = period_bounds('day')
    date = to and { calendar.days_from + number - 1, to }
  end
  kept.date = date or nil
  return date and date[1] or -1
end

-- Returns the used amount, and the ms until a request of `usd` and `tokens` fits: 0 for now, -1 for never.
local function usage_and_wait(entry, usd, tokens)
  local rule, meter, _, limit = unpack(entry)
  local kind = meter[METER_KIND]
  if kind == KIND_REQUESTS then return ceil(meter[METER_USED] / MINUTE_MS), bucket_wait(meter[METER_USED], limit, 1) end
  if kind == KIND_TOKENS then
    return ceil(meter[METER_USED] / MINUTE_MS), tokens > 0 and bucket_wait(meter[METER_USED], limit, tokens) or 0
  end
  if kind == KIND_RUNNING then
    return meter[METER_USED], meter[METER_USED] < limit and 0 or limit > 0 and CONCURRENCY_WAIT_MS or -1
  end
  local more = (kind == KIND_USD or kind == KIND_LAST_USD) and usd or tokens
  if kind < KIND_LAST_USD then
    if more == 0 or meter[METER_USED] + more <= limit then return meter[METER_USED], 0 end
    return meter[METER_USED], (rule[RULE_PERIOD] == 'total' or more > limit) and -1 or meter[PERIOD_END] - now
  end
  local used, wait = 0, -1
  for at = NEWEST, OLDEST do used = used + meter[at] end
  if more == 0 or used + more <= limit then return used, 0 end
  local excess = used + more - limit
  if more <= limit then
    for at = OLDEST, NEWEST, -1 do
      excess = excess - meter[at]
      if excess <= 0 then
        wait = (meter[SLOT_NUMBER] - at + NEWEST + SLOTS) * meter[SLOT_MS] - now
        break
      end
    end
  end
  return used, wait
end
