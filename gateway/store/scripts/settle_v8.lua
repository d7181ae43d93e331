-- settle_v8: ends a hold exactly once. It settles the hold and posts a cost, or voids it and posts nothing.
--
-- KEYS 1 team  2 key  3 state  4 holds  5 held  6 journal  7 words  8 index  9 usage of the hour  10 usage of the day
--      11 the record in which settle_v5 stored this hold's end  [usage of its tags on the day]  [end users]
--      [the client's idempotency key]  [response]
-- ARGV 1 hold id  2 "settle" or "void"  3 cost, nano-USD  4 key id  5 model  6 upstream  7 outcome  8 settled_by
--      9 input tokens  10 cached  11 output  12 reasoning  13 admitted_ms (server time, from admit)
--      14 lifetime of the index, ms  15 lifetime of the usage, ms  16 lifetime of journal entries, ms
--      17 lifetime of the idempotency key, ms; "0": another request follows under it (idempotency.lua)
--      18 SHA-256 of the secret if the request was admitted while this store was unavailable, otherwise ""
--      19 the cost's calculation, or ""  20 earlier attempts that may have started the work: JSON texts, one per line
--      21 the provider's id of the response, or ""
--      22 "1": a cost above the hold pauses the team; "over <nano-USD> <request or nothing>": by so much it is above the
--         hold of the request that made the response, which is named where that pauses the team; otherwise ""
--      23 fingerprint of the hold id, for the index
--      24 fingerprint of the response if it is remembered, otherwise ""  25 fingerprint of the upstream's key
--      26 a note about the response with what the entry does not contain, otherwise ""
--      27 the id of the response that is remembered, or ""
--      28 the request's tags for the key that counts them (attribution.lua), or ""
--      29 the end user, if limits of each end user count the request, or may; otherwise "" (end_users.lua)
--      [30 text for the last key, the response, in the form of settle_v5; "": the key is deleted  31 its lifetime, ms]
-- Returns {1 applied | 2 replayed | 3 without its hold | 4 unknown | -1 conflict, cost posted, balance, settled_by}
--   3: the hold had expired, or never existed (the store was unavailable). A cost is posted; a void writes nothing.
--   4: the team does not exist, or its key does not have the secret. Nothing is written, so that a stranger creates no keys.
-- A cost above the hold is posted completely. The field `paused` of the team names the first request that paused it. As
-- long as the team has this field, admit_v8 refuses every request that costs something.
--
-- An open hold has not ended. The end is therefore searched only if there is no open hold.
--@include common
--@include resolving
--@include entry
--@include index
--@include index_writing
--@include idempotency

local team_hash, key_hash, state, holds, held_hash, journal, words, index = unpack(KEYS, 1, 8)
local id, kind, cost, key_id = ARGV[1], ARGV[2], ARGV[3] + 0, ARGV[4]
local response, is_tagged = ARGV[30] and KEYS[#KEYS], ARGV[28] ~= ''
local next_key = is_tagged and 13 or 12
local end_users = ARGV[29] ~= '' and KEYS[next_key]
if end_users then next_key = next_key + 1 end
local idempotency_key = #KEYS >= next_key + (response and 1 or 0) and KEYS[next_key]
local binary_id = packed_id(id)

local stored_hold, hold, slots, status = redis.call('HGET', held_hash, id), nil, 1, 1
if stored_hold then
  hold = parse_hold(stored_hold)
else
--@include index_lookup
  local ended_kind, posted_cost, balance, ended_by
  local before = redis.call('GET', KEYS[11])
  local entry = not before and find_entry(index, journal, ARGV[23], binary_id, 1)
  if before then ended_kind, posted_cost, balance, ended_by = string.match(before, '^(%S+) (%S+) (%S+) %S+ (.*)$')
  elseif entry and entry[VALUES] then
    ended_kind, ended_by = string.match(text_of(words, entry[VALUES][ENDING]), '^(%S+) %S+ (%S+)')
    posted_cost, balance = entry[VALUES][COST], entry[VALUES][BALANCE]
  elseif entry then -- the journal has been trimmed and no longer has the entry
    local money = redis.call('HMGET', state, 'available', 'held')
    ended_kind, posted_cost, balance, ended_by = kind, cost, (money[1] or 0) + (money[2] or 0), ARGV[8]
  end
  if ended_kind then
    local same = ended_kind == kind and tonumber(posted_cost) == cost and ended_by == ARGV[8]
    return { same and 2 or -1, tonumber(posted_cost), tonumber(balance), ended_by }
  end
  if redis.call('EXISTS', team_hash) == 0 or ARGV[18] ~= '' and redis.call('HEXISTS', key_hash, 's:' .. ARGV[18]) == 0 then
    return { 4, 0, 0, '' }
  end
  if kind == 'void' then
    local money = redis.call('HMGET', state, 'available', 'held')
    return { 3, 0, (money[1] or 0) + (money[2] or 0), ARGV[8] }
  end
  -- Nothing is reserved any more, so every counter gets the whole cost.
  hold = { amount = 0, tokens = 0, admitted_ms = ARGV[13] + 0, key_id = key_id, end_user = end_users and ARGV[29] }
  slots, status = 0, 3
  local team_rules, key_rules = redis.call('HGET', team_hash, 'rules'), redis.call('HGET', key_hash, 'rules')
  if team_rules or key_rules then
--@include meters_of_model
    hold.counted = meters_of_model(string.lower(ARGV[5]), { t = team_rules, k = key_rules })
  end
  if cost < 0 and ARGV[24] ~= '' then
    local corrected = find_entry(index, journal, ARGV[24], packed_id(ARGV[27]), RESPONSE_ID)
    if corrected and corrected[VALUES] then hold.charged, hold.paid_by = corrected[VALUES][COST], corrected[VALUES][PAID_BY] end
  end
end
hold.end_users = end_users
hold.end_user = end_users and hold.counted and hold.end_user
local now = server_ms()
if hold.admitted_ms == 0 then hold.admitted_ms = now end

-- Everything is read before anything is written.
local team_tpm, key_tpm = redis.call('HMGET', team_hash, 'tpm', 'rules'), redis.call('HMGET', key_hash, 'tpm', 'rules')
local tpm_overrides
if team_tpm[2] or key_tpm[2] then
  for scope, compiled in pairs({ t = team_tpm[2], k = key_tpm[2] }) do
    local has_overrides = compiled and string.find(compiled, '"overrides":', 1, true)
    has_overrides = has_overrides and now <= (string.match(compiled, '^{"ends":(%d+)') or now) + 0
    for _, item in ipairs(has_overrides and cjson.decode(compiled).overrides or {}) do
      if item[OVERRIDE_PLACE] == TPM then
        tpm_overrides = tpm_overrides or {}
        tpm_overrides[scope] = item
      end
    end
  end
end
local input, cached, output, reasoning = ARGV[9] + 0, ARGV[10] + 0, ARGV[11] + 0, ARGV[12] + 0
local row, remembered = key_id .. '|' .. ARGV[5], ARGV[24] ~= ''
-- The calculation of a plain cost is its prices, so it recurs in other entries. Any other belongs to this request only.
local is_plain = string.sub(ARGV[19], 1, 1) ~= '{'
local calculation = is_plain and ARGV[19] or ''
local ending = kind .. ' ' .. ARGV[7] .. ' ' .. ARGV[8] .. ' ' .. ARGV[6] .. '\n' .. calculation .. '\n' .. ARGV[25]
local text_numbers = redis.call('HMGET', words, ':' .. row, ':' .. ending)
local hour_usage, day_usage
if kind == 'settle' then hour_usage, day_usage = redis.call('HGET', KEYS[9], row), redis.call('HGET', KEYS[10], row) end
-- A later correction of a response's cost has an id of its own. It does not count as another request.
local counted, tags = string.sub(id, 1, 6) == 'usage_' and 0 or 1, nil
if is_tagged and kind == 'settle' then
--@include attribution
end
--@permits HDEL HINCRBY HSET PEXPIRE XADD ZREM
if not (text_numbers[1] and text_numbers[2]) then
--@permits HLEN
end
if ARGV[22] == '1' then
--@permits HSETNX
end
if response or idempotency_key then
--@permits DEL GET SET
end
local balance, indexed, paid_by = resolve(
  state, journal, hold, now, team_tpm[1] and tonumber(team_tpm[1]), key_tpm[1] and tonumber(key_tpm[1]), cost,
  kind == 'settle' and input + output or 0, slots,
  string.match(index, '%d+$') * 4294967296, remembered and 2 or 1, tpm_overrides)
if stored_hold then
  redis.call('ZREM', holds, id)
  redis.call('HDEL', held_hash, id)
end

-- Returns the number of a text (entry.lua), or the text itself if no more texts may have one.
local function number_of(number, text)
  if number then return number + 0 end
  local known_texts = redis.call('HLEN', words) / 2
  if known_texts >= MAX_TEXTS then return text end
  redis.call('HSET', words, ':' .. text, known_texts + 1, '=' .. string.format('%d', known_texts + 1), text)
  return known_texts + 1
end
local excess, pausing_request = string.match(ARGV[22], '^over (%d+) (%S*)$')
-- The provider and the client may have different ids of a response.
local response_id = remembered and ARGV[27] or ARGV[21]
-- If the response's usage may correct the cost later, the correction needs the same tags, end user and lots.
local is_open = remembered and ARGV[8] ~= 'usage' and ARGV[8] ~= 'upstream_cost'
local kept_tags, kept_user = is_open and is_tagged and ARGV[28], is_open and end_users and ARGV[29]
local kept_lots = is_open and paid_by ~= '' and paid_by
local optional, last_place = {
  response_id ~= '' and packed_id(response_id) or '', is_plain and '' or ARGV[19], ARGV[26],
  (excess or ARGV[21] ~= response_id) and ARGV[21] ~= '' and packed_id(ARGV[21]) or '',
  excess and excess + 0 or (kept_tags or kept_user or kept_lots) and (hold.amount > 0 and max(0, cost - hold.amount) or 0) or '',
  kept_tags or '', kept_user or '', kept_lots or '',
}, 8
while last_place > 0 and optional[last_place] == '' do last_place = last_place - 1 end
local entry_id = redis.call('XADD', journal, 'MINID', '~', now - ARGV[16], '*', 'e', cmsgpack.pack(
  binary_id, number_of(text_numbers[1], row), number_of(text_numbers[2], ending), cost, balance, hold.amount, input, cached,
  output, reasoning, hold.admitted_ms, unpack(optional, 1, last_place)))
for attempt in string.gmatch(ARGV[20], '[^\n]+') do
  redis.call('XADD', journal, '*', 'type', 'attempt', 'id', id, 'key', key_id, 'amount', 0, 'balance', balance,
    'attempt', attempt)
end
add_to_index(index, indexed, entry_id, now, ARGV[14] + 0, ARGV[23], remembered and ARGV[24])

if kind == 'settle' then
  -- One field per key and model, with its five sums packed: five fields cost more here and where they are read.
  for at = 9, 10 do
    local before = at == 9 and hour_usage or at == 10 and day_usage
    local requests_before, input_before, cached_before, output_before, cost_before =
      string.match(before or '0 0 0 0 0', '^(%S+) (%S+) (%S+) (%S+) (%S+)$')
    redis.call('HSET', KEYS[at], row, string.format('%d %d %d %d %d',
      requests_before + counted, input_before + input, cached_before + cached, output_before + output, cost_before + cost))
    if not before then redis.call('PEXPIRE', KEYS[at], ARGV[15]) end
  end
  if tags then
    redis.call('HSET', KEYS[12], unpack(tags))
    if tags.life_ms then redis.call('PEXPIRE', KEYS[12], tags.life_ms) end
  end
end
pausing_request = ARGV[22] == '1' and id or pausing_request
if pausing_request and pausing_request ~= '' then
  redis.call('HSETNX', team_hash, 'paused', string.format('%d %s', now, pausing_request))
end
if response and ARGV[30] ~= '' then redis.call('SET', response, ARGV[30], 'PX', ARGV[31])
elseif response then redis.call('DEL', response) end
-- The client may have used the idempotency key again after this hold expired.
local kept_id, _, follower
if idempotency_key then kept_id, _, follower = read_idempotency_key(idempotency_key) end
if idempotency_key and (kept_id or id) == id then
  if follower then redis.call('SET', idempotency_key, follower .. ' waits', 'PX', WAITS_MS)
  elseif kind == 'settle' and ARGV[17] ~= '0' then redis.call('SET', idempotency_key, id .. ' settled', 'PX', ARGV[17])
  else redis.call('DEL', idempotency_key) end
end
return { status, cost, balance, ARGV[8] }
