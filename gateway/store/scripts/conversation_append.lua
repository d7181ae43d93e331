-- Appends packed items to a conversation, for the scripts that write conversations.
--
-- `first`, `last`: where the packed items stand in ARGV. Returns the first position; 0 if the conversation does not
-- exist; -1 if it would be larger than `max_bytes`. A lock with this name is released.
local function append(conversation, ttl_ms, max_bytes, lock, first, last)
  if redis.call('HEXISTS', conversation, 'meta') == 0 then return 0 end
  local size = 0
  for at = first, last do size = size + #ARGV[at] end
  if tonumber(redis.call('HGET', conversation, 'bytes')) + size > max_bytes then return -1 end
  local position = tonumber(redis.call('HGET', conversation, 'next'))
  for at = first, last do
    redis.call('HSET', conversation, 'i:' .. string.format('%d', position + at - first), ARGV[at])
  end
  redis.call('HSET', conversation, 'next', string.format('%d', position + last - first + 1))
  redis.call('HINCRBY', conversation, 'bytes', size)
  if lock ~= '' and string.match(redis.call('HGET', conversation, 'lock') or '', '^[^ ]*') == lock then
    redis.call('HDEL', conversation, 'lock')
  end
  redis.call('PEXPIRE', conversation, ttl_ms)
  return position
end
