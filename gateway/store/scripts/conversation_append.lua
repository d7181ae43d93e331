-- Appends packed items to a conversation, and keeps account of a team's conversations, for the scripts that change them.
--
-- `use`    zset  the team's conversations by the time of their last change in ms
-- `sizes`  hash  id -> bytes of its items, and 256 for the rest of it; "*" -> the bytes of all

-- More items take the store, and who reads them, longer than others should wait.
local MOST_ITEMS = 10000

-- Takes a conversation out of the account.
local function drop_conversation(use, sizes, id)
  local before = tonumber(redis.call('HGET', sizes, id) or '0')
  redis.call('HDEL', sizes, id)
  redis.call('HINCRBY', sizes, '*', string.format('%d', -before))
  redis.call('ZREM', use, id)
end

-- Notes a conversation's size and use. Those whose life has ended are taken out, at most 100 a call.
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

-- `first`, `last`: where the packed items stand in ARGV. Returns the first position; 0 if the conversation does not
-- exist; -1 if it would be larger than `max_bytes`, or have more than MOST_ITEMS; -3 if the team's conversations would hold more than `team_bytes`. A
-- lock with this name is released.
local function append(conversation, sizes, max_bytes, team_bytes, lock, first, last)
  if redis.call('HEXISTS', conversation, 'meta') == 0 then return 0 end
  local size = 0
  if redis.call('HLEN', conversation) + last - first >= MOST_ITEMS then return -1 end
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
