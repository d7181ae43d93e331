-- conversation_v1: one change of a conversation, applied completely or not at all.
--
-- KEYS 1 conversation: meta, next (position), bytes, lock, and i:<position> -> a packed item with its id: "<id> <item>"
-- ARGV 1 the change  2 lifetime in ms  3...
--   create   3 meta                                  returns 1, or 0 if the id is taken
--   append   3 maximum bytes  4 the lock's name or ""  5... packed items
--                                                   returns the first position; 0 if it does not exist; -1 if too large
--   update   3 meta                                  returns 1, or 0 if it does not exist
--   remove   3 the item's id                         returns 1, or 0 if there is no such item
--   lock     3 name  4 lifetime of the lock in ms    returns 1 if locked; 0 if it does not exist; -1 if another turn has it
--   unlock   3 name                                  returns 1
--@include conversation_append
local what, ttl_ms = ARGV[1], ARGV[2]
local exists = redis.call('HEXISTS', KEYS[1], 'meta') == 1
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

if what == 'create' then
  if exists then return 0 end
  redis.call('HSET', KEYS[1], 'meta', ARGV[3], 'next', 1, 'bytes', 0)
elseif not exists then
  return 0
elseif what == 'update' then
  redis.call('HSET', KEYS[1], 'meta', ARGV[3])
elseif what == 'append' then
  return append(KEYS[1], ttl_ms, tonumber(ARGV[3]), ARGV[4], 5, #ARGV)
elseif what == 'remove' then
  local found = 0
  local fields = redis.call('HGETALL', KEYS[1])
  for at = 1, #fields, 2 do
    if string.sub(fields[at], 1, 2) == 'i:' and string.match(fields[at + 1], '^[^ ]*') == ARGV[3] then
      redis.call('HDEL', KEYS[1], fields[at])
      redis.call('HINCRBY', KEYS[1], 'bytes', -#fields[at + 1])
      found = 1
    end
  end
  if found == 0 then return 0 end
elseif what == 'lock' then
  local name, until_ms = string.match(redis.call('HGET', KEYS[1], 'lock') or '', '^([^ ]*) (%d+)$')
  if name and name ~= ARGV[3] and tonumber(until_ms) > now_ms() then return -1 end
  redis.call('HSET', KEYS[1], 'lock', ARGV[3] .. ' ' .. string.format('%d', now_ms() + tonumber(ARGV[4])))
elseif what == 'unlock' then
  if string.match(redis.call('HGET', KEYS[1], 'lock') or '', '^[^ ]*') == ARGV[3] then redis.call('HDEL', KEYS[1], 'lock') end
end
redis.call('PEXPIRE', KEYS[1], ttl_ms)
return 1
