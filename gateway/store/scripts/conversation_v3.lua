-- conversation_v3: applies one change of a conversation, completely or not at all.
--
-- KEYS 1 conversation: meta, next (position), bytes, lock, and i:<position> -> a packed item with its id: "<id> <item>"
--      2 use of the team's conversations  3 their sizes
-- ARGV 1 the change  2 lifetime in ms  3 the latest time at which this may run, by the server's clock in ms, or ""  4 id
--   create   5 meta                                  returns 1, or 0 if the id is taken
--   append   5 maximum bytes  6 maximum bytes of all conversations of the team  7 the lock's name or ""  8... packed items
--            returns the first position; 0 if it does not exist; -1 if it would be too large, -3 if all would be
--   update   5 meta                                  returns 1, or 0 if it does not exist
--   remove   5 the item's position  6 its id if other items share it, or ""; the id stays stored for their numbering
--                                                    returns 1, or 0 if there is no such item
--   lock     5 name  6 lifetime of the lock in ms    returns 1 if locked; 0 if it does not exist; -1 if another turn has it
--   unlock   5 name                                  returns 1
--   delete                                           returns 1, or 0 if it does not exist
-- Returns -2 if the call came too late: it waited in the socket of a store that hung, and its caller no longer waits.
--@include conversation_append
local change, ttl_ms, id = ARGV[1], tonumber(ARGV[2]), ARGV[4]
local exists = redis.call('HEXISTS', KEYS[1], 'meta') == 1
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[3] ~= '' and now > tonumber(ARGV[3]) then return -2 end

local answer = 1
if change == 'create' then
  if exists then return 0 end
  redis.call('HSET', KEYS[1], 'meta', ARGV[5], 'next', 1, 'bytes', 0)
elseif not exists then
  return 0
elseif change == 'update' then
  redis.call('HSET', KEYS[1], 'meta', ARGV[5])
elseif change == 'append' then
  answer = append(KEYS[1], KEYS[3], tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7], 8, #ARGV)
  if answer < 1 then return answer end
elseif change == 'remove' then
  local item = redis.call('HGET', KEYS[1], 'i:' .. ARGV[5])
  if not item then return 0 end
  redis.call('HDEL', KEYS[1], 'i:' .. ARGV[5])
  if ARGV[6] ~= '' then redis.call('HSET', KEYS[1], 'x:' .. ARGV[5], ARGV[6]) end
  redis.call('HINCRBY', KEYS[1], 'bytes', #ARGV[6] - #item)
elseif change == 'lock' then
  local name, until_ms = string.match(redis.call('HGET', KEYS[1], 'lock') or '', '^([^ ]*) (%d+)$')
  if name and name ~= ARGV[5] and tonumber(until_ms) > now then return -1 end
  redis.call('HSET', KEYS[1], 'lock', ARGV[5] .. ' ' .. string.format('%d', now + tonumber(ARGV[6])))
elseif change == 'unlock' then
  if string.match(redis.call('HGET', KEYS[1], 'lock') or '', '^[^ ]*') == ARGV[5] then redis.call('HDEL', KEYS[1], 'lock') end
elseif change == 'delete' then
  redis.call('DEL', KEYS[1])
  drop_conversation(KEYS[2], KEYS[3], id)
  return 1
end
note_conversation(KEYS[1], KEYS[2], KEYS[3], id, now, ttl_ms)
return answer
