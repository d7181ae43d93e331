-- expire_v2: voids holds that nobody has renewed: their gateway has died, and no lease reported it.
--
-- KEYS 1 state  2 holds  3 held  4 journal
-- ARGV 1 maximum number of holds  2 grace period, ms  3 lifetime of a hold, ms
-- Returns {voided, looked at}
--
-- An expired hold is not voided when it is first seen, because the store may have stopped, so that nobody could renew it.
-- It gets a grace period, marked by a fraction of one half in its expiry time, and is voided when that has passed too.
-- A hold that expired longer ago than its own lifetime was not examined in that time, because the store stopped again. It
-- gets another grace period.
-- If the clock was set back, a lifetime may end later than possible. It is then shortened.
--
--@include common
--@include resolving
--@include void
local state, holds, held, journal = unpack(KEYS)
local most, grace, life = ARGV[1], ARGV[2] + 0, ARGV[3] + 0
local now = server_ms()

for _, id in ipairs(redis.call('ZRANGEBYSCORE', holds, '(' .. now + life + grace, '(inf', 'LIMIT', 0, most)) do
  redis.call('ZADD', holds, 'XX', now + life, id)
end
local over = redis.call('ZRANGEBYSCORE', holds, '-inf', now, 'WITHSCORES', 'LIMIT', 0, most)
local voided = 0
for i = 1, #over, 2 do
  local expiry = over[i + 1] + 0
  if expiry % 1 == 0 or now - expiry > life then
    redis.call('ZADD', holds, 'XX', string.format('%.1f', now + grace + 0.5), over[i])
  else
    void_hold(state, holds, held, journal, now, over[i])
    voided = voided + 1
  end
end
return { voided, #over / 2 }
