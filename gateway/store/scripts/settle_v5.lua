-- settle_v5: ends a hold exactly once: settled (a cost is posted) or voided (nothing is).
--
-- KEYS 1 team  2 key  3 state  4 holds  5 held  6 journal  7 done  8 usage of the hour  9 usage of the day
--      [the client's idempotency key]  [response]
-- ARGV 1 hold id  2 "settle" or "void"  3 cost, nano-USD  4 key id  5 model  6 upstream  7 outcome  8 settled_by
--      9 input tokens  10 cached  11 output  12 reasoning  13 admitted_ms (server time, from admit)
--      14 lifetime of `done`, ms  15 lifetime of the usage, ms  16 lifetime of journal entries, ms
--      17 lifetime of the idempotency key, ms
--      18 SHA-256 of the secret if the request was admitted while this store was unavailable, otherwise ""
--      19 how the cost came about, or ""  20 earlier attempts that may have started the work: JSON texts, one per line
--      21 the provider's id of the response, or ""
--      22 "1": a cost above the hold pauses the team; otherwise ""
--      [23 what to remember of the response, under the last key  24 for how long, ms]
-- Returns {1 applied | 2 replayed | 3 without its hold | 4 unknown | -1 conflict, cost posted, balance, settled_by}
--   3: the hold had expired, or never existed (the store was unavailable). A cost is posted; a void writes nothing.
--   4: the team does not exist, or its key does not have the secret. Nothing is written, so that a stranger creates no keys.
-- A cost above the hold is posted completely. What the hold did not cover is the field `over` of the journal entry. The
-- field `paused` of the team names the first request that paused it; admit_v3 refuses what costs something until it is gone.
--@include common
--@include resolving

local team, key, state, holds, held, journal, done = unpack(KEYS, 1, 7)
local response = ARGV[23] and KEYS[#KEYS]
local mark = #KEYS > (response and 10 or 9) and KEYS[10]
local id, kind, cost, key_id = ARGV[1], ARGV[2], ARGV[3] + 0, ARGV[4]
local now = server_ms()

local before = redis.call('GET', done)
if before then
  local was, posted, balance, by = string.match(before, '^(%S+) (%S+) (%S+) %S+ (.*)$')
  local same = was == kind and tonumber(posted) == cost and by == ARGV[8]
  return { same and 2 or -1, tonumber(posted), tonumber(balance), by }
end

local text = redis.call('HGET', held, id)
if not text then
  if redis.call('EXISTS', team) == 0 or ARGV[18] ~= '' and redis.call('HEXISTS', key, 's:' .. ARGV[18]) == 0 then
    return { 4, 0, 0, '' }
  end
  if kind == 'void' then
    local money = redis.call('HMGET', state, 'available', 'held')
    return { 3, 0, tonumber(money[1] or '0') + tonumber(money[2] or '0'), ARGV[8] }
  end
end
local hold, slots, status
if text then
  hold, slots, status = parse_hold(text), 1, 1
else
  -- Nothing is reserved any more, so every counter gets the whole cost.
  hold = { amount = 0, tokens = 0, admitted_ms = ARGV[13] + 0, key_id = key_id }
  if hold.admitted_ms == 0 then hold.admitted_ms = now end
  slots, status = 0, 3
end

-- The limits that resolving needs.
local function load_rates(hash)
  local limits = redis.call('HMGET', hash, 'rpm', 'tpm')
  limits[RPM], limits[TPM] = limits[RPM] and tonumber(limits[RPM]), limits[TPM] and tonumber(limits[TPM])
  return limits
end
local tokens = kind == 'settle' and ARGV[9] + ARGV[11] or 0
local balance = resolve(state, hold, now, load_rates(team), load_rates(key), cost, tokens, slots)
if text then
  redis.call('ZREM', holds, id)
  redis.call('HDEL', held, id)
end

local more = {}
if ARGV[19] ~= '' then more[1], more[2] = 'bill', ARGV[19] end
if ARGV[21] ~= '' then more[#more + 1], more[#more + 2] = 'response', ARGV[21] end
if cost > hold.amount then more[#more + 1], more[#more + 2] = 'over', cost - hold.amount end
local entry = redis.call('XADD', journal, 'MINID', '~', now - ARGV[16], '*',
  'type', kind, 'id', id, 'key', key_id, 'amount', 0 - cost, 'balance', balance, 'hold', hold.amount, 'model', ARGV[5],
  'upstream', ARGV[6], 'outcome', ARGV[7], 'by', ARGV[8],
  'in', ARGV[9], 'cached', ARGV[10], 'out', ARGV[11], 'reasoning', ARGV[12], unpack(more))
for attempt in string.gmatch(ARGV[20], '[^\n]+') do
  redis.call('XADD', journal, '*', 'type', 'attempt', 'id', id, 'key', key_id, 'amount', 0, 'balance', balance,
    'attempt', attempt)
end
redis.call('SET', done, string.format('%s %d %d %s %s', kind, cost, balance, entry, ARGV[8]), 'PX', ARGV[14])

if kind == 'settle' then
  -- What is posted later for a response, under an id of its own, belongs to the request that made it.
  local counted = string.sub(id, 1, 6) == 'usage_' and 0 or 1
  -- One field per key and model, with its five sums packed: five fields cost more here and where they are read.
  local row = key_id .. '|' .. ARGV[5]
  for at = 8, 9 do
    local before = redis.call('HGET', KEYS[at], row)
    local requests, read, cached, made, spent = string.match(before or '0 0 0 0 0', '^(%S+) (%S+) (%S+) (%S+) (%S+)$')
    redis.call('HSET', KEYS[at], row, string.format('%d %d %d %d %d',
      requests + counted, read + ARGV[9], cached + ARGV[10], made + ARGV[11], spent + cost))
    if not before then redis.call('PEXPIRE', KEYS[at], ARGV[15]) end
  end
end
if ARGV[22] == '1' then redis.call('HSETNX', team, 'paused', string.format('%d %s', now, id)) end
if response then redis.call('SET', response, ARGV[23], 'PX', ARGV[24]) end
-- The client may have used the idempotency key again after this hold expired.
if mark and string.match(redis.call('GET', mark) or id, '^%S+') == id then
  if kind == 'settle' then redis.call('SET', mark, id .. ' settled', 'PX', ARGV[17])
  else redis.call('DEL', mark) end
end
return { status, cost, balance, ARGV[8] }
