-- For restore: the meters that a failover has lost with the admissions that made them. A running request must count again, or
-- the limit would let one more through, and its end would count down what others have counted. Included inside of a block,
-- behind end_users_resolving.lua and meters.lua; the locals `admitted_ms`, `now`, `team_hash` and `key_hash` are the script's.

local known_rules

-- Returns a new meter for the rule of a scope (t, k, e, f), and the rule's limit; nil if there is no such rule any more.
local function lost_meter(scope, id)
  if not known_rules then
    local function read(hash)
      local text = redis.call('HGET', hash, 'rules')
      return text and cjson.decode(text) or {}
    end
    local of_team, of_key = read(team_hash), read(key_hash)
    known_rules = { t = of_team.rules, k = of_key.rules, e = of_team.end_users, f = of_key.end_users, zone = of_team.zone }
  end
  for _, rule in ipairs(known_rules[scope] or {}) do
    if rule[RULE_ID] == id then
      local meter, kind = meter_of(rule, nil, rule[RULE_VALUE], 0, false), rule[RULE_KIND]
      -- The request counts in the new period of a budget, and leaves it when it has ended.
      if kind >= KIND_USD and type(rule[RULE_PERIOD]) ~= 'number' then
        meter[PERIOD_BEGIN] = min(meter[PERIOD_BEGIN], admitted_ms)
      end
      return meter, rule[RULE_VALUE]
    end
  end
end

-- Returns the meter of a scope that counts the request. One that is lost is put into `meters`, and into `entries` for an
-- end user.
local function meter_that_counts(meters, entries, scope, id)
  local meter = meters[scope] and meters[scope][id]
  if meter then return meter end
  local limit
  meter, limit = lost_meter(scope, id)
  if not meter then return end
  meters[scope] = meters[scope] or { zone = known_rules.zone }
  meters[scope][id] = meter
  if scope == 'e' or scope == 'f' then
    local entry = entries[scope] or { 0, 0, meters[scope] }
    entry[COUNTS_UNTIL] = max(entry[COUNTS_UNTIL], counts_until(meter, limit, now))
    entries[scope] = entry
  end
  return meter
end
