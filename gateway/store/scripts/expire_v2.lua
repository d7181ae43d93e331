-- expire_v2: voids holds that nobody has renewed: their gateway is gone, and no lease told of it.
--
-- KEYS 1 state  2 holds  3 held  4 journal
-- ARGV 1 most  2 grace, ms  3 life of a hold, ms
-- Returns {voided, looked at}
--
-- A hold that is over is not voided at first sight: the store may have stood still, and nobody could renew. It gets a grace,
-- noted by a half in its expiry, and is voided where it is over again. One that is over for longer than a life was not
-- looked at all that time, because the store stood still again: it gets another grace.
-- A life that ends later than any can, since the clock was set back, is cut.
--@include common
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
