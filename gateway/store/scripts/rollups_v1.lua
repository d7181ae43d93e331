-- rollups_v1: reads several roll-ups of one team in one call. Most of them may not exist.
--
-- KEYS the roll-ups, few enough to read all of them without blocking the store
-- Returns {number of a key, its fields and values, ...} for the existing ones.
local found = {}
for number, name in ipairs(KEYS) do
  local flat = redis.call('HGETALL', name)
  if #flat > 0 then
    found[#found + 1] = number
    found[#found + 1] = flat
  end
end
return found
