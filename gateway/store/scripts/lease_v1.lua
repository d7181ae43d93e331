-- lease_v1: renews a worker's lease, and returns the workers that have died.
--
-- KEYS 1 leases
-- ARGV 1 worker id  2 lease, ms; 0: ends the lease, because all holds of the worker are settled
--      3 lifetime of all leases, ms
-- Returns {1 if its lease was valid | 0 if it is new or had lapsed, ids of workers whose leases have lapsed}
-- Only one worker gets a lapsed lease.
--
-- The member "" has the time of the last call. If that is longer ago than the time between two calls of a worker, the
-- store stopped or all workers were disconnected. Then all leases are renewed, because no worker could renew its own.
local leases, worker, lease_ms = KEYS[1], ARGV[1], ARGV[2] + 0
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local known = redis.call('ZSCORE', leases, worker)
if lease_ms == 0 then
  redis.call('ZREM', leases, worker)
  return { known and 1 or 0 }
end
local last_call_ms = tonumber(redis.call('ZSCORE', leases, '') or now)
if now - last_call_ms > lease_ms / 2 or now < last_call_ms then
  for _, id in ipairs(redis.call('ZRANGE', leases, 0, -1)) do redis.call('ZADD', leases, now + lease_ms, id) end
end
redis.call('ZADD', leases, now, '', now + lease_ms, worker)
redis.call('PEXPIRE', leases, ARGV[3])
local lapsed = redis.call('ZRANGEBYSCORE', leases, '-inf', '(' .. now)
for _, id in ipairs(lapsed) do redis.call('ZREM', leases, id) end
table.insert(lapsed, 1, known and 1 or 0)
return lapsed
