-- response_put_v1: stores a response, or reserves its id while it runs.
--
-- KEYS 1 contents  2 entries  3 use  4 items
-- ARGV 1 id  2 the parent's id or ""  3 packed response  4 "r" running | "s" ended
--      5 "new" | "known" (its id was reserved before)  6 lifetime in ms  7 maximum bytes of the team
--      8 the ids of its output items, separated by commas
-- Returns 1 if stored; 0 if its id is taken (new) or it was deleted meanwhile (known); -1 if its parent does not exist
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
--@include response_entries
local id, parent, content, kind, known = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5] == 'known'
local ttl_ms, max_bytes = tonumber(ARGV[6]), tonumber(ARGV[7])

local entry = read(id)
if known then
  if not entry or entry.kind == 'd' then return 0 end
else
  if entry then return 0 end
  if parent ~= '' then
    local before = read(parent)
    if not before or before.kind == 'd' then return -1 end
    before.children = before.children + 1
    write(parent, before)
  end
  entry = { parent = parent, children = 0, bytes = 0, kind = kind, items = '' }
end
redis.call('HINCRBY', KEYS[2], '*', #content - entry.bytes)
forget_items(id, entry)
entry.bytes, entry.kind, entry.items = #content, kind, ARGV[8]
for item in string.gmatch(entry.items, '[^,]+') do redis.call('HSET', KEYS[4], item, id) end
write(id, entry)
redis.call('HSET', KEYS[1], id, content)
redis.call('ZADD', KEYS[3], string.format('%d', now * 1000), id)
if entry.parent ~= '' then walk(id, now, ttl_ms, 1000000) end
trim(now, ttl_ms, max_bytes, id, 200)
renew(ttl_ms)
return 1
