-- For settlement without a hold: finds the meters that count a request for a model. Included inside of a block.

-- Returns the names of the meters in the form of a hold. `compiled` has the rules of both scopes (meters.lua). The
-- meters of running requests are left out, because nothing would reduce them again. Names in letters are those of plain
-- budgets.
local function meters_of_model(model, compiled)
  local patterns, found = { [''] = true, ['*'] = true, [model] = true }, {}
  for at in string.gmatch(model, '()/') do patterns[string.sub(model, 1, at) .. '*'] = true end
  for scope, text in pairs(compiled) do
    local rules = text and cjson.decode(text) or {}
    for _, rule in ipairs(rules.rules or {}) do
      if patterns[rule[5]] and rule[3] ~= 3 then found[#found + 1] = scope .. rule[1] end
    end
    for _, rule in ipairs(rules.end_users or {}) do
      if patterns[rule[5]] and rule[3] ~= 3 then found[#found + 1] = (scope == 't' and 'e' or 'f') .. rule[1] end
    end
  end
  for _, unit in ipairs({ 'usd', 'tokens' }) do
    for _, period in ipairs({ 'day', 'month' }) do
      for scope in pairs(compiled) do found[#found + 1] = scope .. 'budget_' .. unit .. '_' .. period end
    end
  end
  return table.concat(found, ',')
end
