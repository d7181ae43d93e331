-- response_lineage_v1: returns which responses a response continues, for lists of its input. Deleted and expired ones are
-- left out, and those before them are not. It changes nothing.
--
-- KEYS 1 contents  2 entries  3 use  4 items
-- ARGV 1 id  2 lifetime in ms
-- Returns {the next id or "", {id, ...}}: at most a slice, from this response towards the root
--@reads
--@include response_entries
local time = redis.call('TIME')
local oldest = (time[1] * 1000 + math.floor(time[2] / 1000) - tonumber(ARGV[2])) * 1000
local id, ids = ARGV[1], {}
for _ = 1, SLICE do
  local entry = id ~= '' and read(id)
  if not entry then return { '', ids } end
  local used = redis.call('ZSCORE', KEYS[3], id)
  if entry.kind ~= 'd' and used and tonumber(used) >= oldest then ids[#ids + 1] = id end
  id = entry.parent
end
return { id, ids }
