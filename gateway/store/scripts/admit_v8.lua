-- admit_v8: decides whether a request may run. It checks everything first, and then reserves everything or nothing.
--
-- KEYS 1 team  2 key  3 state  4 holds  5 held  6 end users  [the client's idempotency key]  [the team's queue]
-- ARGV 1 hold id  2 key id  3 SHA-256 of the secret  4 patterns that match the model, most specific first, one per line
--      (all in lower case, and compared so)
--      5 hold, nano-USD  6 hold, tokens  7 requested max_output_tokens, or -1  8 lifetime of the hold, ms
--      9 "1": decide, but reserve nothing  10 lifetime of the idempotency key, ms
--      11 output tokens in the hold  12 price of a million of them, nano-USD
--      13 the latest time at which this may run, by the server's clock in ms; "" for any time
--      14 share of a minute's limit that may come at once, in thousandths
--      15 names that stand for the operation, one per line: its own, and those that include it
--      16 "1": it is free: only the key and its permissions are checked, no limit applies, and nothing is reserved
--      17 "1": it has a place in the queue, or joins it
--      18 patterns whose limits count it, one per line, or "" for those of 4
--      19 id of the request that follows this one under the same idempotency key, or ""
--      20 how many end users may be counted at most, a space, and the request's end user (end_users.lua); nothing if it
--         names none, so that a limit of each end user refuses it
-- Returns {1, admitted_ms, "", "", 0, 0, 0, available, hold nano-USD, hold tokens, 1: cut at the hold, rates...[, the
--           meters that count it (meter_counting.lua), its day in the team's time zone (days after 1970-01-01), or -1]} or
--         {0, now_ms, code, scope, limit, used, wait_ms (-1: waiting does not help), available, hold nano-USD, hold tokens,
--           cut, rates..., the least nano-USD left in credits and budgets, the least tokens left in budgets and tpm,
--           for how many seconds it may wait in the queue, or 0; how many requests are ahead of it, its day as above,
--           the pattern of the limit's models or "", if credits refuse it: the nano-USD of credits that have expired since
--           the last grant, and when the last of them did, or 0}
--   rates: requests limit, left, reset_ms; tokens limit, left, reset_ms; of the scope with the least left (-1: no limit)
--
-- With the code "calendar", nothing was decided: the team's calendar (accounts/periods.py) must be written first.
-- For an invalid key, scope is the reason, and limit is the time in ms since when it applies (key_status.lua).
-- A call that waited in the socket of a store that hung is refused as "late", because its caller no longer waits.
-- Admission voids no hold, because after such a pause the hold of a running request looks expired: see expire_v3 and
-- reclaim_v2. If several limits refuse a request, the answer names the one that lasts longest, so that a client that waits
-- for that long succeeds. Credits and budgets do not refuse a request that reserves none of them. queue.lua describes how
-- requests wait. A request that does not state its output reserves at most the output tokens that its key and team permit.
--@include common
--@include limits
--@include key_status
--@include permitted
--@include queue
--@include idempotency

local NO_LIMIT = 9007199254740991
-- Places of the fields that are loaded after the limits: of both scopes, of a key, and of a team.
local STATUS, EXPIRES_MS, MODELS = 15, 16, 17
local KEY_CUT, KEY_SECRET, KEY_SECRET_USED, KEY_SECRET_ENDED, KEY_OPERATIONS, KEY_RULES = 18, 19, 20, 21, 22, 23
local TEAM_METERED, TEAM_OPERATIONS, TEAM_PAUSED, TEAM_RULES = 18, 19, 20, 21
local team_hash, key_hash, state, holds, held_hash, end_users = unpack(KEYS, 1, 6)
local queue = ARGV[17] == '1' and KEYS[#KEYS]
local idempotency_key = #KEYS > (queue and 7 or 6) and KEYS[7]
local hold_id, key_id, secret_hash = ARGV[1], ARGV[2], ARGV[3]
local amount, tokens, max_output = ARGV[5] + 0, ARGV[6] + 0, ARGV[7] + 0
local now = server_ms()
burst = ARGV[14] / 1000
local available, held = 0, 0
local metered = false
local cut = 0 -- 1: by the key's setting, no stream may exceed its hold
local key, team -- the counters of both, once they are loaded; their limits
local key_limits = load_limits(key_hash, 'status', 'expires_ms', 'models', 'cut_at_cap', 's:' .. secret_hash,
  'u:' .. secret_hash, 'e:' .. secret_hash, 'operations', 'rules')
local team_limits = load_limits(team_hash, 'status', 'expires_ms', 'models', 'metered', 'operations', 'paused', 'rules')
local key_rules, team_rules = key_limits[KEY_RULES], team_limits[TEAM_RULES]
if key_rules and now > (string.match(key_rules, '^{"ends":(%d+)') or NO_LIMIT) + 0 then key_rules = nil end
if team_rules and now > (string.match(team_rules, '^{"ends":(%d+)') or NO_LIMIT) + 0 then team_rules = nil end
-- The rules that apply besides the plain limits, the function that checks one, and the meters of both scopes (meters.lua).
local rules, check_rule, meters
local wait_with_override -- returns how long a request waits if an override ends before (override_ends.lua)
local counting -- the names of the meters that count the request
-- The request's end user, that user's entries, and the function that stores them (end_users_admission.lua); nil if no
-- limit is for each end user. `counted_end_users`: how many are counted already, if there is no room for this one.
local end_user, entries, save_end_users, counted_end_users
local day = -1 -- the day in the team's time zone, if it has one
-- What has expired of the team's credits and is not journalled yet (lots.lua). Two functions for a team with credits
-- that expire: one returns when the last of them expired, the other takes the hold from them, and returns its names.
local expired_amount, last_expiry_ms, take_lots = 0, nil, nil

-- Returns limit, left and reset_ms of the limit with the least left.
local function least_of_bucket(limit, level)
  local its_limit, least, reset = -1, -1, 0
  if key_limits[limit] then
    its_limit = key_limits[limit]
    least, reset = bucket_left(key[level], its_limit)
  end
  if team_limits[limit] then
    local left, team_reset = bucket_left(team[level], team_limits[limit])
    if least < 0 or left < least then its_limit, least, reset = team_limits[limit], left, team_reset end
  end
  if rules then
    for _, entry in ipairs(rules) do
      if entry[RULE][RULE_KIND] == limit and entry[LIMIT] then
        local left, rule_reset = bucket_left(entry[METER][METER_USED], entry[LIMIT])
        if least < 0 or left < least then its_limit, least, reset = entry[LIMIT], left, rule_reset end
      end
    end
  end
  return its_limit, least, reset
end

-- Returns the name of a rule's meter, as holds contain it, and as the team's queue contains it.
local function meter_name(entry)
  return (entry[END_USER_SCOPE] or entry[SCOPE] == 'key' and 'k' or 't') .. entry[RULE][RULE_ID]
end
local function queued_name(entry)
  return meter_name(entry) .. (entry[END_USER_SCOPE] and '.' .. end_user or '')
end

local function answer(admitted, code, scope, limit, used, wait_ms)
  local rq_limit, rq_left, rq_reset, tk_limit, tk_left, tk_reset = -1, -1, 0, -1, -1, 0
  if key then
    rq_limit, rq_left, rq_reset = least_of_bucket(RPM, REQUEST_LEVEL)
    tk_limit, tk_left, tk_reset = least_of_bucket(TPM, TOKEN_LEVEL)
  end
  return {
    admitted, now, code, scope, limit, used, wait_ms, available, amount, tokens, cut,
    rq_limit, rq_left, rq_reset, tk_limit, tk_left, tk_reset,
  }
end

-- Returns the answer to a refused request. It has the maximum nano-USD and tokens that credits and budgets would permit.
local function refuse(code, scope, limit, used, wait_ms, pattern)
  local usd_left, tokens_left = metered and available or NO_LIMIT, NO_LIMIT
  for _, pair in ipairs(key and { { key, key_limits }, { team, team_limits } } or {}) do
    local counters, limits = pair[1], pair[2]
    for i = 1, 2 * TOTAL do
      local left = limits[BUDGETS + i] and limits[BUDGETS + i] - counters[COUNTED[i]]
      if left and i <= TOTAL then usd_left = min(usd_left, left) elseif left then tokens_left = min(tokens_left, left) end
    end
    tokens_left = min(tokens_left, limits[TPM] or NO_LIMIT)
  end
  for _, entry in ipairs(rules or {}) do
    local kind, left = entry[RULE][RULE_KIND], entry[LIMIT]
    if left and kind >= KIND_USD then left = left - check_rule(entry, 0, 0) end
    if left and kind == KIND_USD then usd_left = min(usd_left, left)
    elseif left and (kind == KIND_BUDGET_TOKENS or kind == KIND_TOKENS) then
      tokens_left = min(tokens_left, left)
    end
  end
  local reply = answer(0, code, scope, limit, used, wait_ms)
  reply[18], reply[19], reply[20], reply[21], reply[22], reply[23] = usd_left, tokens_left, 0, 0, day, pattern or ''
  reply[24], reply[25] = 0, 0
  if code == 'credits' then
    local lapsed = redis.call('HMGET', state, 'lapsed', 'lapsed_ms')
    reply[24] = (lapsed[1] or 0) + expired_amount
    reply[25] = max((lapsed[2] or 0) + 0, last_expiry_ms and last_expiry_ms() or 0)
  end
  return reply
end

if ARGV[13] ~= '' and now > ARGV[13] + 0 then return refuse('late', '', 0, 0, -1) end

local invalid, since_ms = why_invalid(
  now, key_limits[KEY_SECRET], key_limits[KEY_SECRET_ENDED], key_limits[STATUS], key_limits[EXPIRES_MS],
  team_limits[STATUS], team_limits[EXPIRES_MS])
if invalid then return refuse('invalid_api_key', invalid, since_ms, 0, -1) end

metered = team_limits[TEAM_METERED] ~= '0'
if key_limits[KEY_CUT] == '1' then cut = 1 end
local packed_lots
available, held, team, key, packed_lots = load_state(state, key_id, 'lot_window')
if packed_lots and packed_lots ~= '' then
--@include lots
  local lots = cmsgpack.unpack(packed_lots)
  local valid = without_expired(lots, available, now)
  available, expired_amount = valid, available - valid
  function take_lots()
    local taken = take_from_lots(lots, now, amount)
    redis.call('HSET', state, 'lot_window', pack_lots(lots, 0))
    return taken
  end
  function last_expiry_ms()
    local at_ms = 0
    for at = 1, #lots, 2 do if lots[at] <= now then at_ms = lots[at] end end
    return at_ms
  end
end
local models, operations, free = ARGV[4], ARGV[15], ARGV[16] == '1'

if not (key_rules or team_rules) then
  advance(key, key_limits, now)
  advance(team, team_limits, now)
else
--@include meter_counting
--@include overrides
--@include meters
--@include override_ends
  local team_compiled = team_rules and cjson.decode(team_rules) or {}
  local key_compiled = key_rules and cjson.decode(key_rules) or {}
  override(key, key_limits, key_compiled.overrides, now)
  override(team, team_limits, team_compiled.overrides, now)
  advance(key, key_limits, now)
  advance(team, team_limits, now)
  wait_with_override = wait_past_override
  local end_user_rules = key_compiled.end_users or team_compiled.end_users
  if not free and (key_compiled.rules or team_compiled.rules or team_compiled['local'] or team_compiled.dated
    or end_user_rules) then
    local before = read_meters(state, key_id)
    local counted_patterns = ARGV[18] == '' and models or ARGV[18]
    rules, check_rule = applied, usage_and_wait
    meters = {
      k = load_meters('key', key, key_limits, key_compiled, team_compiled, before.k, counted_patterns),
      t = load_meters('team', team, team_limits, team_compiled, team_compiled, before.t, counted_patterns),
    }
    if end_user_rules then
--@include end_users_admission
    end
    counting = {}
    for _, entry in ipairs(rules) do counting[queued_name(entry)] = true end
    if team_compiled.dated then day = local_day(before.t or {}, meters.t) end
    if lacks_calendar then return refuse('calendar', '', 0, 0, -1) end
  end
end

local follows = false -- whether what is kept under the idempotency key is of a call that was made for this request
if idempotency_key then
  local id, progress, follower = read_idempotency_key(idempotency_key)
  follows = follower == hold_id or id == hold_id and progress == 'waits'
  if id and not follows then
    if progress == 'settled' then return refuse('already_answered:' .. id, 'key', 0, 0, -1) end
    if progress == 'waits' or redis.call('HEXISTS', held_hash, id) == 1 then
      return refuse('request_in_progress:' .. (follower or id), 'key', 0, 0, 1000)
    end
  end
end

local refusal, blocked = nil, {} -- blocked: the scopes whose limits refuse, and the meter of a limit for some models only
local function consider(code, scope, limit, used, wait_ms, pattern, meter)
  blocked[meter and 'meter' or scope] = meter or true
  if not refusal or refusal.wait_ms >= 0 and (wait_ms < 0 or wait_ms > refusal.wait_ms) then
    refusal = { code = code, scope = scope, limit = limit, used = used, wait_ms = wait_ms, pattern = pattern }
  end
end

if not permitted(string.lower(key_limits[MODELS] or ''), models) then consider('model_not_allowed', 'key', 0, 0, -1) end
if not permitted(string.lower(team_limits[MODELS] or ''), models) then consider('model_not_allowed', 'team', 0, 0, -1) end
if not permitted(key_limits[KEY_OPERATIONS], operations) then consider('operation_not_allowed', 'key', 0, 0, -1) end
if not permitted(team_limits[TEAM_OPERATIONS], operations) then consider('operation_not_allowed', 'team', 0, 0, -1) end

local output = ARGV[11] + 0
local function cap_output(scope, cap)
  if max_output > cap then
    consider('max_output_tokens', scope, cap, max_output, -1)
  elseif max_output < 0 and output > cap then
    -- The reduction is computed in two steps, because tokens x price may exceed 2^53.
    local fewer_tokens, price = output - cap, ARGV[12] + 0
    amount = max(0, amount - fewer_tokens * floor(price / 1000000) - floor(fewer_tokens * (price % 1000000) / 1000000))
    tokens, output = tokens - fewer_tokens, cap
  end
end
if key_limits[MAX_OUTPUT] then cap_output('key', key_limits[MAX_OUTPUT]) end
if team_limits[MAX_OUTPUT] then cap_output('team', team_limits[MAX_OUTPUT]) end

local function check(name, scope, limits)
  local rpm, tpm, slots, overridden = limits[RPM], limits[TPM], limits[CONCURRENCY], limits.overridden
  if rpm then
    local wait = bucket_wait(scope[REQUEST_LEVEL], rpm, 1)
    if overridden and wait ~= 0 then
      wait = wait_with_override(wait, overridden[RPM], { KIND_REQUESTS, scope[REQUEST_LEVEL] }, rpm)
    end
    if wait ~= 0 then consider('rpm', name, rpm, ceil(scope[REQUEST_LEVEL] / MINUTE_MS), wait) end
  end
  if tpm then
    local wait = tokens > 0 and bucket_wait(scope[TOKEN_LEVEL], tpm, tokens) or 0
    if overridden and wait ~= 0 then
      wait = wait_with_override(wait, overridden[TPM], { KIND_TOKENS, scope[TOKEN_LEVEL] }, tpm, 0, tokens)
    end
    if wait ~= 0 then consider('tpm', name, tpm, ceil(scope[TOKEN_LEVEL] / MINUTE_MS), wait) end
  end
  if slots and scope[OPEN] >= slots then
    local wait = slots > 0 and CONCURRENCY_WAIT_MS or -1
    if overridden then wait = wait_with_override(wait, overridden[CONCURRENCY], { KIND_RUNNING, scope[OPEN] }, slots) end
    consider('concurrency', name, slots, scope[OPEN], wait)
  end
  for i = 1, 2 * TOTAL do
    local limit = limits[BUDGETS + i]
    if limit then
      local used, more = scope[COUNTED[i]], i <= TOTAL and amount or tokens
      if more > 0 and used + more > limit then
        -- Waiting for the next period helps if the request fits into an empty period.
        local period, wait, ends_ms = (i - 1) % TOTAL + 1, -1, NO_LIMIT
        if period ~= TOTAL then ends_ms = period_end_ms(period, scope[PERIOD + period]) end
        if period ~= TOTAL and more <= limit then wait = ends_ms - now end
        if overridden then
          wait = wait_with_override(wait, overridden[BUDGETS + i], { KIND_USD, used, 0, ends_ms }, limit, more, more,
            PERIODS[period])
        end
        consider('budget_' .. (i <= TOTAL and 'usd_' or 'tokens_') .. PERIODS[period], name, limit, used, wait)
      end
    end
  end
end
if not free then
  local paused = amount > 0 and team_limits[TEAM_PAUSED] -- settle_v8 writes it
  if paused then
    local since_ms, id = string.match(paused, '^(%d+) (.*)$')
    consider('team_paused:' .. id, 'team', since_ms + 0, 0, -1)
  end
  check('key', key, key_limits)
  check('team', team, team_limits)
  if rules then
    for _, entry in ipairs(rules) do
      local rule, _, scope, limit = unpack(entry)
      if limit then
        local used, wait = check_rule(entry, amount, tokens)
        if wait ~= 0 and entry[OVERRIDE_END] then
          wait = wait_with_override(wait, entry[OVERRIDE_END], entry[METER], limit, amount, tokens, rule[RULE_PERIOD])
        end
        if wait ~= 0 then
          local name, pattern = string.match(rule[RULE_NAME], '^([^@]+)@?(.*)$')
          consider(name, scope, limit, used, wait, pattern,
            (rule[RULE_PATTERN] ~= '' or entry[END_USER_SCOPE]) and queued_name(entry))
        end
      end
    end
  end
  if counted_end_users then consider('end_users', 'team', counted_end_users, counted_end_users, MINUTE_MS) end
  if metered and amount > 0 and available < amount then consider('credits', 'team', available, held, -1) end
end
-- From here on the queue may be written, because entries that are no longer renewed are removed.
if queue then
--@permits EXISTS HDEL HINCRBY HSET PEXPIRE SET ZADD
end
local patience_s = key_limits[QUEUE_S] or team_limits[QUEUE_S] or 0
local place = patience_s > 0 and not free and ARGV[9] ~= '1' and place_in_queue(queue, state, hold_id, key_id, now,
  key_limits[QUEUE_LENGTH], team_limits[QUEUE_LENGTH], counting)
if refusal or place and place.behind then
  local reply
  if refusal then reply = refuse(refusal.code, refusal.scope, refusal.limit, refusal.used, refusal.wait_ms, refusal.pattern)
  else reply = refuse('queue', place.behind, place.waiting, place.waiting, CONCURRENCY_WAIT_MS) end
  if place then
    if (not refusal or refusal.wait_ms >= 0 and WAITABLE[refusal.code]) and not place.is_full then
      if queue then
        local meter, scope = blocked.meter or not refusal and place.meter or '', nil
        if meter ~= '' then scope = string.find('kf', string.sub(meter, 1, 1), 1, true) and 'key' or 'team'
        else scope = (blocked.key or place.behind == 'key') and 'key' or 'team' end
        join_queue(queue, state, hold_id, key_id, place, scope, meter, now)
        if follows then redis.call('PEXPIRE', idempotency_key, WAITS_MS) end
      end
      reply[20], reply[21] = patience_s, place.ahead
    elseif queue then leave_queue(queue, state, hold_id) end
  end
  return reply
end
if ARGV[9] == '1' then return answer(1, '', '', 0, 0, 0) end
--@permits HSET ZADD
if idempotency_key then
--@permits SET
end
if entries then
--@permits HDEL PEXPIRE
end
if queue then leave_queue(queue, state, hold_id) end

local function reserve(scope, limits)
  scope[OPEN] = scope[OPEN] + 1
  if limits[RPM] then scope[REQUEST_LEVEL] = scope[REQUEST_LEVEL] + MINUTE_MS end
  if limits[TPM] then scope[TOKEN_LEVEL] = scope[TOKEN_LEVEL] + tokens * MINUTE_MS end
  add_used(scope, now, amount, tokens)
end
local counted, team_meters, key_meters = '', nil, nil -- counted: the meters' names; the others: the packed meters
if rules then
  for _, entry in ipairs(rules) do
    local rule, meter = entry[RULE], entry[METER]
    local kind = meter[METER_KIND]
    if kind == KIND_REQUESTS then meter[METER_USED] = meter[METER_USED] + (entry[LIMIT] and MINUTE_MS or 0)
    elseif kind == KIND_TOKENS then meter[METER_USED] = meter[METER_USED] + (entry[LIMIT] and tokens * MINUTE_MS or 0)
    elseif kind == KIND_RUNNING then meter[METER_USED] = meter[METER_USED] + 1
    else
      local at = kind >= KIND_LAST_USD and NEWEST or METER_USED
      meter[at] = meter[at] + (rule[RULE_KIND] == KIND_USD and amount or tokens)
    end
    counted = counted .. (counted == '' and ' ' or ',') .. meter_name(entry)
  end
  team_meters, key_meters = cmsgpack.pack(meters.t), cmsgpack.pack(meters.k)
end
if entries then
  if next(entries) then counted = counted .. ',u' .. end_user end
  save_end_users()
end
if not free then
  reserve(key, key_limits)
  reserve(team, team_limits)
  if key.added or team.added then
--@permits HINCRBY
  end
  local buckets = (key_limits[TPM] and 1 or 0) + (team_limits[TPM] and 2 or 0)
  local lots_held = take_lots and take_lots() or ''
  available = available - amount
  if rules then
    save_state(state, key_id, available + expired_amount, held + amount, team, key,
      'meter_window', team_meters, key_id .. ':meter_window', key_meters)
  else save_state(state, key_id, available + expired_amount, held + amount, team, key) end
  redis.call('ZADD', holds, now + ARGV[8], hold_id)
  local names = lots_held == '' and counted or ' ' .. lots_held .. string.gsub(counted, '^ ', ',')
  redis.call('HSET', held_hash, hold_id, string.format('%d %d %d %s %d%s', amount, tokens, now, key_id, buckets, names))
end
-- Records to the second when each secret was last used. After a rotation this shows who still uses the old one.
if now - (tonumber(key_limits[KEY_SECRET_USED] or '0') or 0) >= 1000 then
  redis.call('HSET', key_hash, 'u:' .. secret_hash, now)
end
if idempotency_key then
  redis.call('SET', idempotency_key, ARGV[19] == '' and hold_id or hold_id .. ' >' .. ARGV[19], 'PX', ARGV[10])
end
local reply = answer(1, '', '', 0, 0, 0)
if rules then reply[18], reply[19] = string.sub(counted, 2), day end
return reply
