-- notice_turn_v1: gives one worker the turn to check teams and to send notices, for as long as it renews the turn.
--
-- KEYS 1 sender
-- ARGV 1 worker id  2 lifetime of the turn, ms
-- Returns 1 if this worker has the turn, else 0
local sender = redis.call('GET', KEYS[1])
if sender and sender ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
