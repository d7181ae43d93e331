-- notice_put_v1: queues a notice, unless its threshold was noticed before.
--
-- KEYS 1 marks  2 waiting  3 due
-- ARGV 1 notice id  2 the notice, JSON  3 maximum number of waiting notices  4 lifetime of marks, ms
--      5 lifetime of waiting notices, ms  6... marks: the threshold's own, and those of the thresholds that it passed
-- Returns 1 if queued; 0 if it was noticed before; -1 if too many wait: nothing was changed, and the next check tries
-- again
--
-- A mark remains while checks find its threshold reached. A check renews it once a quarter of its lifetime has passed.
local marks, waiting, due, life = KEYS[1], KEYS[2], KEYS[3], ARGV[4] + 0
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local until_ms = tonumber(redis.call('ZSCORE', marks, ARGV[6]) or 0)
local known = until_ms > now
if known and until_ms > now + life * 3 / 4 then return 0 end
if not known and redis.call('HLEN', waiting) >= tonumber(ARGV[3]) then return -1 end
for _, mark in ipairs(redis.call('ZRANGEBYSCORE', marks, '-inf', now, 'LIMIT', 0, 100)) do redis.call('ZREM', marks, mark) end
for at = 6, #ARGV do redis.call('ZADD', marks, now + life, ARGV[at]) end
redis.call('PEXPIRE', marks, life)
if known then return 0 end
redis.call('HSET', waiting, ARGV[1], ARGV[2])
redis.call('ZADD', due, now, ARGV[1])
for _, key in ipairs({ waiting, due }) do redis.call('PEXPIRE', key, ARGV[5]) end
return 1
