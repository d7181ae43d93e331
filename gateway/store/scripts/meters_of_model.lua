-- For settlement without a hold: finds the meters that count a request for a model. Included inside of a block, after
-- resolving.lua, which includes meter_counting.lua.
--@include rule_fields

-- Returns the names of the meters in the form of a hold. `compiled` has the rules of both scopes (meters.lua). The
-- meters of running requests are left out, because nothing would reduce them again. Names in letters are those of plain
-- budgets.
local function meters_of_model(model, compiled)
  local patterns, found = { [''] = true, ['*'] = true, [model] = true }, {}
  for at in string.gmatch(model, '()/') do patterns[string.sub(model, 1, at) .. '*'] = true end
  for scope, text in pairs(compiled) do
    local rules = text and cjson.decode(text) or {}
    for _, rule in ipairs(rules.rules or {}) do
      if patterns[rule[RULE_PATTERN]] and rule[RULE_KIND] ~= KIND_RUNNING then found[#found + 1] = scope .. rule[RULE_ID] end
    end
    for _, rule in ipairs(rules.end_users or {}) do
      if patterns[rule[RULE_PATTERN]] and rule[RULE_KIND] ~= KIND_RUNNING then
        found[#found + 1] = (scope == 't' and 'e' or 'f') .. rule[RULE_ID]
      end
    end
  end
  for _, unit in ipairs({ 'usd', 'tokens' }) do
    for _, period in ipairs({ 'day', 'month' }) do
      for scope in pairs(compiled) do found[#found + 1] = scope .. 'budget_' .. unit .. '_' .. period end
    end
  end
  return table.concat(found, ',')
end
