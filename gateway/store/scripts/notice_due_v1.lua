-- notice_due_v1: returns the notices that are due, the earliest first.
--
-- KEYS 1 waiting  2 due
-- ARGV 1 maximum number of notices
-- Returns {the notices, JSON}
--@reads
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ids = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, ARGV[1])
if #ids == 0 then return {} end
return redis.call('HMGET', KEYS[1], unpack(ids))
