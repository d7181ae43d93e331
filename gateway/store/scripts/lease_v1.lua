-- lease_v1: a worker says that it lives, and hears who does not any more.
--
-- KEYS 1 leases
-- ARGV 1 worker id  2 lease, ms; 0: it ends, all that it held is settled  3 life of the leases themselves, ms
-- Returns {1 its lease ran on | 0 it is new or had lapsed, ids of workers whose leases have lapsed: each is told once}
--
-- The member "" says when this last ran. Where that is longer ago than workers leave between two calls, nobody could: the
-- store stood still, or all were away. Time in which nobody could say that he lives counts for none.
local leases, worker, lease = KEYS[1], ARGV[1], ARGV[2] + 0
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local known = redis.call('ZSCORE', leases, worker)
if lease == 0 then
  redis.call('ZREM', leases, worker)
  return { known and 1 or 0 }
end
local ran = tonumber(redis.call('ZSCORE', leases, '') or now)
if now - ran > lease / 2 or now < ran then
  for _, id in ipairs(redis.call('ZRANGE', leases, 0, -1)) do redis.call('ZADD', leases, now + lease, id) end
end
redis.call('ZADD', leases, now, '', now + lease, worker)
redis.call('PEXPIRE', leases, ARGV[3])
local lapsed = redis.call('ZRANGEBYSCORE', leases, '-inf', '(' .. now)
for _, id in ipairs(lapsed) do redis.call('ZREM', leases, id) end
table.insert(lapsed, 1, known and 1 or 0)
return lapsed
