-- rollups_v1: several roll-ups of one team, in one call; most of them are not there.
--
-- KEYS the roll-ups, so few that reading them all holds up nobody
-- Returns {number of a key, its fields and values, ...}, of those that are there.
local found = {}
for number, name in ipairs(KEYS) do
  local flat = redis.call('HGETALL', name)
  if #flat > 0 then
    found[#found + 1] = number
    found[#found + 1] = flat
  end
end
return found
