-- For settlement without a hold: which meters count a request for a model. Inside of a block.

-- Returns their names as a hold has them, or nil. `compiled` are the rules of both scopes (meters.lua). What runs is not
-- counted, because nobody would count it back. Meters with names in letters are those of plain budgets.
local function meters_of_model(model, compiled)
  local patterns, found = { [''] = true, ['*'] = true, [model] = true }, {}
  for at in string.gmatch(model, '()/') do patterns[string.sub(model, 1, at) .. '*'] = true end
  for scope, text in pairs(compiled) do
    for _, rule in ipairs(text and cjson.decode(text).rules or {}) do
      if patterns[rule[5]] and rule[3] ~= 3 then found[#found + 1] = scope .. rule[1] end
    end
  end
  for _, unit in ipairs({ 'usd', 'tokens' }) do
    for _, period in ipairs({ 'day', 'month' }) do
      for scope in pairs(compiled) do found[#found + 1] = scope .. 'budget_' .. unit .. '_' .. period end
    end
  end
  return table.concat(found, ',')
end
