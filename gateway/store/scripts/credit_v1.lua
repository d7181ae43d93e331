-- credit_v1: posts a grant (> 0) or an adjustment (either sign) of an admin, once per idempotency key.
--
-- KEYS 1 team  2 state  3 journal  4 idempotency
-- ARGV 1 "grant" or "adjust"  2 amount, nano-USD  3 id of the movement  4 note  5 largest balance
--      6 lifetime of the idempotency key, ms  7 lifetime of journal entries, ms
--
-- The largest balance bounds the balance, not the sum of all grants. A grant ends the pause of a team. A cost above its
-- hold may have paused it.
-- Returns {1 applied | 2 replayed | 0 no such team | -1 conflict | -2 over the largest balance, available, held, id}
--
--@include common
--@include credit
local team, state, journal, idem = unpack(KEYS)
local amount, largest = tonumber(ARGV[2]), tonumber(ARGV[5])
if redis.call('EXISTS', team) == 0 then return { 0, 0, 0, '' } end
local money = redis.call('HMGET', state, 'available', 'held')
local available, held = tonumber(money[1] or '0'), tonumber(money[2] or '0')
local before = redis.call('GET', idem)
if before then
  local kind, posted, id = string.match(before, '^(%S+) (%S+) (%S+)$')
  local same = kind == ARGV[1] and tonumber(posted) == amount
  return { same and 2 or -1, available, held, id }
end
if math.abs(available + held + amount) > largest then
  return { -2, available, held, '' }
end
available = post_credit(state, journal, idem, ARGV[1], ARGV[2], ARGV[3], ARGV[4], server_ms(), ARGV[6], ARGV[7])
if ARGV[1] == 'grant' then redis.call('HDEL', team, 'paused') end
return { 1, available, held, ARGV[3] }
