-- Entries of stored responses, shared by the scripts response_* and background_*. KEYS 1 contents  2 entries  3 use  4 items.
--
-- contents  hash  id -> the packed response; "<id>|events" -> the packed events of a background response
-- entries   hash  id -> "parent|children|bytes|kind|items". kind: r running, s stored, d deleted but still has children.
--                  items: the ids of its output items, separated by commas. The field "*" has the total bytes.
-- items     hash  item id -> the id of the latest response that has it
-- use       zset  id -> 1000 x the time of the last use in ms, plus 1 for each step up from the turn that was used
--
-- Each use renews all ancestors, with a higher score than the turn itself. The entry with the lowest score is therefore
-- always the last turn of a chain. Removing entries from the lowest score up never leaves a turn without its ancestors.
-- A script renews at most 1000 turns. Longer chains are renewed from the root on (response_use_v1). Turns that are more
-- than 1000 from the end are renewed for longer than a turn may run, so that the end of a turn need not renew them.
local function read(id)
  local text = redis.call('HGET', KEYS[2], id)
  if not text then return nil end
  local parent, children, bytes, kind, items = string.match(text, '^([^|]*)|(%d+)|(%d+)|(%a)|(.*)$')
  return { parent = parent, children = tonumber(children), bytes = tonumber(bytes), kind = kind, items = items }
end

local function write(id, entry)
  local text = string.format('%s|%d|%d|%s|', entry.parent, entry.children, entry.bytes, entry.kind)
  redis.call('HSET', KEYS[2], id, text .. entry.items)
end

-- Removes the items of a response from the index. Items that a later response also has stay.
local function forget_items(id, entry)
  for item in string.gmatch(entry.items, '[^,]+') do
    if redis.call('HGET', KEYS[4], item) == id then redis.call('HDEL', KEYS[4], item) end
  end
end

-- How many turns of a chain one script renews or removes: the store serves nobody else meanwhile.
local SLICE = 1000

-- Removes an entry. A deleted ancestor that has no other children is removed with it.
local function remove(id)
  local entry = read(id)
  local left = SLICE
  while entry and left > 0 do
    left = left - 1
    redis.call('HDEL', KEYS[1], id, id .. '|events')
    redis.call('HDEL', KEYS[2], id)
    redis.call('ZREM', KEYS[3], id)
    forget_items(id, entry)
    if entry.bytes > 0 then redis.call('HINCRBY', KEYS[2], '*', -entry.bytes) end
    id = entry.parent
    entry = id ~= '' and read(id) or nil
    if entry then
      entry.children = math.max(0, entry.children - 1)
      write(id, entry)
      if entry.children > 0 or entry.kind ~= 'd' then entry = nil end
    end
  end
end

-- Removes entries that are older than `ttl_ms`, at most `max_entries` per call. While there are more than `max_bytes`,
-- removes whole chains in order of their last use. Never removes `new_id`.
local function trim(now, ttl_ms, max_bytes, new_id, max_entries)
  local before = string.format('(%d', (now - ttl_ms) * 1000)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', before, 'LIMIT', 0, max_entries)) do remove(id) end
  local left = SLICE
  while max_entries > 0 and left > 0 and tonumber(redis.call('HGET', KEYS[2], '*') or '0') > max_bytes do
    local id = redis.call('ZRANGE', KEYS[3], 0, 0)[1]
    if not id or id == new_id then break end
    -- Removes a whole chain: the turn with the lowest score, then each ancestor that no other turn continues. The next
    -- calls remove the rest of a long chain. If a turn with the lowest score has children, they do not reach it any more.
    local is_first = true
    while id and id ~= '' and id ~= new_id and left > 0 do
      local entry = read(id)
      if not entry or (entry.children > 0 and not is_first) then break end
      remove(id)
      left, is_first = left - 1, false
      id = entry.parent
    end
    max_entries = max_entries - 1
  end
end

-- Finds a turn and its ancestors, at most `max_turns`. Deleted ones are among them, so that their ancestors are renewed too.
-- Returns their ids, beginning with the turn's; the id of the next ancestor or ""; and the first id that is missing,
-- expired or deleted, or nil. What a missing or expired turn continued is not known.
local function walk(id, now, ttl_ms, max_turns)
  local ids, gone = {}, nil
  while id ~= '' and #ids < max_turns do
    local entry = read(id)
    local used = redis.call('ZSCORE', KEYS[3], id)
    if not entry or not used or tonumber(used) < (now - ttl_ms) * 1000 then return ids, '', gone or id end
    if entry.kind == 'd' then gone = gone or id end
    ids[#ids + 1] = id
    id = entry.parent
  end
  return ids, id, gone
end

-- Records the use of turns. `before` is the number of turns between the first of them and the used turn.
local function use(ids, now, before)
  for at, id in ipairs(ids) do
    local step = math.min(before + at - 1, 999999)
    redis.call('ZADD', KEYS[3], 'XX', 'GT', string.format('%d', now * 1000 + step), id)
  end
end

local function renew(ttl_ms)
  for at = 1, 4 do redis.call('PEXPIRE', KEYS[at], ttl_ms) end
end
