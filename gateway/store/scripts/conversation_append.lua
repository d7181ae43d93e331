-- Appends packed items to a conversation, and maintains the sizes of a team's conversations.
--
-- `use`    zset  the team's conversations by the time of their last change in ms
-- `sizes`  hash  id -> bytes of its items, plus 256 for its other fields; "*" -> the bytes of all conversations

-- Reading more items would block the store, and the worker that reads them, for too long.
local MAX_ITEMS = 10000

-- Removes a conversation from `use` and `sizes`.
local function drop_conversation(use, sizes, id)
  local before = tonumber(redis.call('HGET', sizes, id) or '0')
  redis.call('HDEL', sizes, id)
  redis.call('HINCRBY', sizes, '*', string.format('%d', -before))
  redis.call('ZREM', use, id)
end

-- Records a conversation's size and use. Removes expired conversations from `use` and `sizes`, at most 100 in a call.
local function note_conversation(conversation, use, sizes, id, now, ttl_ms)
  local over = string.format('(%d', now - ttl_ms)
  for _, gone in ipairs(redis.call('ZRANGEBYSCORE', use, '-inf', over, 'LIMIT', 0, 100)) do
    drop_conversation(use, sizes, gone)
  end
  local bytes = tonumber(redis.call('HGET', conversation, 'bytes') or '0') + 256
  local before = tonumber(redis.call('HGET', sizes, id) or '0')
  redis.call('HSET', sizes, id, string.format('%d', bytes))
  redis.call('HINCRBY', sizes, '*', string.format('%d', bytes - before))
  redis.call('ZADD', use, string.format('%d', now), id)
  for _, name in ipairs({ conversation, use, sizes }) do redis.call('PEXPIRE', name, string.format('%d', ttl_ms)) end
end

-- Appends the packed items in ARGV[first] to ARGV[last], and releases the lock with this name. Returns the position of
-- the first item; 0 if the conversation does not exist; -1 if it would have more than `max_bytes` or MAX_ITEMS; -3 if
-- the team's conversations would have more than `team_bytes`.
local function append(conversation, sizes, max_bytes, team_bytes, lock, first, last)
  if redis.call('HEXISTS', conversation, 'meta') == 0 then return 0 end
  local size = 0
  if redis.call('HLEN', conversation) + last - first >= MAX_ITEMS then return -1 end
  for at = first, last do size = size + #ARGV[at] end
  if tonumber(redis.call('HGET', conversation, 'bytes')) + size > max_bytes then return -1 end
  if tonumber(redis.call('HGET', sizes, '*') or '0') + size > team_bytes then return -3 end
  local position = tonumber(redis.call('HGET', conversation, 'next'))
  for at = first, last do
    redis.call('HSET', conversation, 'i:' .. string.format('%d', position + at - first), ARGV[at])
  end
  redis.call('HSET', conversation, 'next', string.format('%d', position + last - first + 1))
  redis.call('HINCRBY', conversation, 'bytes', size)
  if lock ~= '' and string.match(redis.call('HGET', conversation, 'lock') or '', '^[^ ]*') == lock then
    redis.call('HDEL', conversation, 'lock')
  end
  return position
end
