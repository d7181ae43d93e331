-- expire_v3: voids holds that no worker has renewed, because their worker died and no lease reported it.
--
-- KEYS 1 state  2 holds  3 held  4 journal  5 end users
-- ARGV 1 maximum number of holds  2 grace period, ms  3 lifetime of a hold, ms
-- Returns {number of voided holds, number of expired holds}
--
-- The first call that sees an expired hold does not void it, because the store may have stopped, so that no worker
-- could renew the hold. The hold gets a grace period, marked by a fraction of one half in its expiry time. A later call
-- voids it when that period has passed. A hold that expired longer ago than its own lifetime was not examined in that
-- time, because the store stopped again. It gets another grace period. After the clock was set back, an expiry may be
-- further ahead than a lifetime. It is then shortened.
--
--@include common
--@include resolving
--@include void
local state, holds, held, journal, end_users = unpack(KEYS)
local max_holds, grace, life = ARGV[1], ARGV[2] + 0, ARGV[3] + 0
local now = server_ms()

for _, id in ipairs(redis.call('ZRANGEBYSCORE', holds, '(' .. now + life + grace, '(inf', 'LIMIT', 0, max_holds)) do
  redis.call('ZADD', holds, 'XX', now + life, id)
end
local expired = redis.call('ZRANGEBYSCORE', holds, '-inf', now, 'WITHSCORES', 'LIMIT', 0, max_holds)
local voided = 0
for i = 1, #expired, 2 do
  local expiry = expired[i + 1] + 0
  if expiry % 1 == 0 or now - expiry > life then
    redis.call('ZADD', holds, 'XX', string.format('%.1f', now + grace + 0.5), expired[i])
  else
    void_hold(state, holds, held, journal, end_users, now, expired[i])
    voided = voided + 1
  end
end
return { voided, #expired / 2 }
