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
-- further ahead than a lifetime. It is then shortened. Credits that have expired are journalled, so that the journal has
-- them soon, whether or not anybody uses the team.
--
--@include common
--@include lots
--@include resolving
--@include void
local state, holds, held, journal, end_users = unpack(KEYS)
local max_holds, grace_ms, life_ms = ARGV[1], ARGV[2] + 0, ARGV[3] + 0
local now = server_ms()

for _, id in ipairs(redis.call('ZRANGEBYSCORE', holds, '(' .. now + life_ms + grace_ms, '(inf', 'LIMIT', 0, max_holds)) do
  redis.call('ZADD', holds, 'XX', now + life_ms, id)
end
local balances = redis.call('HMGET', state, 'lot_window', 'available', 'held')
if balances[1] and balances[1] ~= '' then
  local lots, stored_available, held_amount = cmsgpack.unpack(balances[1]), (balances[2] or 0) + 0, (balances[3] or 0) + 0
  local available = without_expired(lots, stored_available, now)
  if available ~= stored_available then
    redis.call('HSET', state, 'available', available, 'lot_window', pack_lots(lots, now))
    post_lapsed(state, journal, lots, now, stored_available + held_amount)
  end
end
local expired = redis.call('ZRANGEBYSCORE', holds, '-inf', now, 'WITHSCORES', 'LIMIT', 0, max_holds)
local voided = 0
for i = 1, #expired, 2 do
  local expiry = expired[i + 1] + 0
  if expiry % 1 == 0 or now - expiry > life_ms then
    redis.call('ZADD', holds, 'XX', string.format('%.1f', now + grace_ms + 0.5), expired[i])
  else
    void_hold(state, holds, held, journal, end_users, now, expired[i])
    voided = voided + 1
  end
end
return { voided, #expired / 2 }
