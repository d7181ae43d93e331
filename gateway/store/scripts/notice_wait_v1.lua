-- notice_wait_v1: delays a notice that could not be sent until its next attempt, and delays others with it.
--
-- KEYS 1 waiting  2 due
-- ARGV 1 its id  2 the notice, JSON  3 the delay, ms  4 lifetime of waiting notices, ms  5... ids of the others
-- Returns 1, or 0 if it no longer waits
local waiting, due = KEYS[1], KEYS[2]
local time = redis.call('TIME')
local at = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[3]
for i = 5, #ARGV do
  if redis.call('HEXISTS', waiting, ARGV[i]) == 1 then redis.call('ZADD', due, at, ARGV[i]) end
end
if redis.call('HEXISTS', waiting, ARGV[1]) == 0 then return 0 end
redis.call('HSET', waiting, ARGV[1], ARGV[2])
redis.call('ZADD', due, at, ARGV[1])
for _, key in ipairs({ waiting, due }) do redis.call('PEXPIRE', key, ARGV[4]) end
return 1
