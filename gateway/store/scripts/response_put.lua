-- Stores one response, for the scripts that write responses. It needs response_entries.
--
-- `kind`: "r" running | "s" ended. `is_reserved`: whether its id was reserved before. `items`: the ids of its output
-- items, separated by commas. `events`: its packed events, or "". Returns 1 if stored; 0 if a new id is taken, or a
-- reserved one was deleted meanwhile; -1 if its parent does not exist.
local function put(now, id, parent, content, kind, is_reserved, items, events, ttl_ms, max_bytes)
  local entry = read(id)
  if is_reserved then
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
  redis.call('HINCRBY', KEYS[2], '*', #content + #events - entry.bytes)
  forget_items(id, entry)
  entry.bytes, entry.kind, entry.items = #content + #events, kind, items
  for item in string.gmatch(entry.items, '[^,]+') do redis.call('HSET', KEYS[4], item, id) end
  write(id, entry)
  redis.call('HSET', KEYS[1], id, content)
  if events ~= '' then redis.call('HSET', KEYS[1], id .. '|events', events) end
  redis.call('ZADD', KEYS[3], string.format('%d', now * 1000), id)
  if entry.parent ~= '' then use((walk(id, now, ttl_ms, SLICE)), now, 0) end
  trim(now, ttl_ms, max_bytes, id, 200)
  renew(ttl_ms)
  return 1
end
