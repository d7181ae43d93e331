-- credit_v2: posts a grant (> 0) or an adjustment (either sign) of an admin, once per idempotency key.
--
-- KEYS 1 team  2 state  3 journal  4 idempotency
-- ARGV 1 "grant" or "adjust"  2 amount, nano-USD  3 id of the movement  4 note  5 largest balance
--      6 lifetime of the idempotency key, ms  7 lifetime of journal entries, ms
--      8 when the credits expire, ms, or ""  9 for how many different times a team may have credits that expire
--
-- The largest balance bounds the balance, not the sum of all grants. A grant ends the pause of a team. A cost above its
-- hold may have paused it. An adjustment with an expiry changes the credits that expire then. One without changes those
-- that do not expire; what these lack is taken from the others (lots.lua).
-- Returns {1 applied | 2 replayed | 0 no such team | -1 conflict | -2 over the largest balance | -3 the expiry has passed |
--   -4 too many different times | -5 more than is left of the credits that expire then, available, held, id,
--   what is left of these}
--
--@include common
--@include lots
--@include credit
local team, state, journal, idempotency = unpack(KEYS)
local kind, amount, largest_balance, expires = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[5]), tonumber(ARGV[8])
local now = server_ms()
if redis.call('EXISTS', team) == 0 then return { 0, 0, 0, '', 0 } end
local balances = redis.call('HMGET', state, 'available', 'held', 'lot_window')
local stored_available, held = tonumber(balances[1] or '0'), tonumber(balances[2] or '0')
local lots = balances[3] and balances[3] ~= '' and cmsgpack.unpack(balances[3]) or {}
local available = without_expired(lots, stored_available, now)
local before = redis.call('GET', idempotency)
if before then
  local earlier_kind, earlier_amount, id, until_ms = string.match(before, '^(%S+) (%S+) (%S+) ?(%S*)$')
  local same = earlier_kind == kind and tonumber(earlier_amount) == amount and until_ms == ARGV[8]
  return { same and 2 or -1, available, held, id, 0 }
end
if math.abs(available + held + amount) > largest_balance then return { -2, available, held, '', 0 } end
if expires then
  if expires <= now then return { -3, available, held, '', 0 } end
  local at, others = lot_at(lots, expires), 0
  for i = 1, #lots, 2 do
    if lots[i] > now and lots[i] ~= expires and lots[i + 1] > 0 then others = others + 1 end
  end
  if others >= ARGV[9] + 0 then return { -4, available, held, '', 0 } end
  if lots[at + 1] + amount < 0 then return { -5, available, held, '', lots[at + 1] } end
  lots[at + 1] = lots[at + 1] + amount
end
if available ~= stored_available then
  redis.call('HSET', state, 'available', available)
  post_lapsed(state, journal, lots, now, stored_available + held)
end
if lots[1] then
  pay_from_lots(lots, available + amount, now)
  redis.call('HSET', state, 'lot_window', pack_lots(lots, now))
end
available = post_credit(state, journal, idempotency, kind, ARGV[2], ARGV[3], ARGV[4], ARGV[8], now, ARGV[6], ARGV[7])
if kind == 'grant' then
  redis.call('HDEL', team, 'paused')
  redis.call('HDEL', state, 'lapsed', 'lapsed_ms')
end
return { 1, available, held, ARGV[3], 0 }
