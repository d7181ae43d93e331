-- admit_v7: decides whether a request may run. It checks everything first, and then reserves everything or nothing.
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
--           the pattern of the limit's models or ""}
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
local STATUS, EXPIRES_MS, MODELS, FOURTH = 15, 16, 17, 18 -- places of these fields, after the limits
local team_hash, key_hash, state, holds, held_hash, end_users = unpack(KEYS, 1, 6)
local queue = ARGV[17] == '1' and KEYS[#KEYS]
local mark = #KEYS > (queue and 7 or 6) and KEYS[7]
local hold_id, key_id, secret_hash = ARGV[1], ARGV[2], ARGV[3]
local amount, tokens, max_output = ARGV[5] + 0, ARGV[6] + 0, ARGV[7] + 0
local now = server_ms()
burst = ARGV[14] / 1000
local available, held = 0, 0
local metered = false
local cut = 0 -- 1: by the key's setting, no stream may exceed its hold
local key, team -- the counters of both, once they are loaded; their limits
local key_limits = load_limits(key_hash, 'status', 'expires_ms', 'models', 'cut_at_cap', 's:' .. secret_hash, 'u:' .. secret_hash,
  'e:' .. secret_hash, 'operations', 'rules')
local team_limits = load_limits(team_hash, 'status', 'expires_ms', 'models', 'metered', 'operations', 'paused', 'rules')
local key_rules, team_rules = key_limits[FOURTH + 5], team_limits[FOURTH + 3]
if key_rules and now > (string.match(key_rules, '^{"ends":(%d+)') or NO_LIMIT) + 0 then key_rules = nil end
if team_rules and now > (string.match(team_rules, '^{"ends":(%d+)') or NO_LIMIT) + 0 then team_rules = nil end
-- The rules that apply besides the plain limits, the function that checks one, and the meters of both scopes (meters.lua).
local rules, wait_under, meters
local later -- returns how long a request waits if an override ends before (override_ends.lua)
local counting -- the names of the meters that count the request
-- Whom the request is for, what limits of each end user have counted for that one, and what writes it down; nil where there
-- are none. `crowd`: so many are counted already, and the request is for another one.
local end_user, entries, save_end_users, crowd
local day = -1 -- the day in the team's time zone, if it has one

-- Returns limit, left and reset_ms of the limit with the least left.
local function least_of_bucket(limit, level)
  local most, least, reset = -1, -1, 0
  if key_limits[limit] then
    most = key_limits[limit]
    least, reset = bucket_left(key[level], most)
  end
  if team_limits[limit] then
    local left, team_reset = bucket_left(team[level], team_limits[limit])
    if least < 0 or left < least then most, least, reset = team_limits[limit], left, team_reset end
  end
  if rules then
    for _, entry in ipairs(rules) do
      if entry[1][3] == limit and entry[4] then
        local left, rule_reset = bucket_left(entry[2][2], entry[4])
        if least < 0 or left < least then most, least, reset = entry[4], left, rule_reset end
      end
    end
  end
  return most, least, reset
end

-- Returns the name of a rule's meter, as holds contain it, and as the team's queue contains it.
local function meter_name(entry) return (entry[6] or entry[3] == 'key' and 'k' or 't') .. entry[1][1] end
local function queued_name(entry) return meter_name(entry) .. (entry[6] and '.' .. end_user or '') end

local function answer(admitted, code, scope, limit, used, wait_ms)
  local rq_limit, rq_left, rq_reset, tk_limit, tk_left, tk_reset = -1, -1, 0, -1, -1, 0
  if key then
    rq_limit, rq_left, rq_reset = least_of_bucket(RPM, RQ)
    tk_limit, tk_left, tk_reset = least_of_bucket(TPM, TK)
  end
  return {
    admitted, now, code, scope, limit, used, wait_ms, available, amount, tokens, cut,
    rq_limit, rq_left, rq_reset, tk_limit, tk_left, tk_reset,
  }
end

-- Returns the answer to a refused request. It has the maximum nano-USD and tokens that credits and budgets would permit.
local function refuse(code, scope, limit, used, wait_ms, pattern)
  local usd, units = metered and available or NO_LIMIT, NO_LIMIT
  for _, pair in ipairs(key and { { key, key_limits }, { team, team_limits } } or {}) do
    local counters, limits = pair[1], pair[2]
    for i = 1, 2 * TOTAL do
      local left = limits[BUDGETS + i] and limits[BUDGETS + i] - counters[COUNTED[i]]
      if left and i <= TOTAL then usd = min(usd, left) elseif left then units = min(units, left) end
    end
    units = min(units, limits[TPM] or NO_LIMIT)
  end
  for _, entry in ipairs(rules or {}) do
    local kind, left = entry[1][3], entry[4]
    if left and kind >= OF_USD then left = left - wait_under(entry, 0, 0) end
    if left and kind == OF_USD then usd = min(usd, left)
    elseif left and (kind == OF_UNITS or kind == OF_TOKENS) then units = min(units, left) end
  end
  local reply = answer(0, code, scope, limit, used, wait_ms)
  reply[18], reply[19], reply[20], reply[21], reply[22], reply[23] = usd, units, 0, 0, day, pattern or ''
  return reply
end

if ARGV[13] ~= '' and now > ARGV[13] + 0 then return refuse('late', '', 0, 0, -1) end

local invalid, since_ms = why_invalid(
  now, key_limits[FOURTH + 1], key_limits[FOURTH + 3], key_limits[STATUS], key_limits[EXPIRES_MS], team_limits[STATUS], team_limits[EXPIRES_MS])
if invalid then return refuse('invalid_api_key', invalid, since_ms, 0, -1) end

metered = team_limits[FOURTH] ~= '0'
if key_limits[FOURTH] == '1' then cut = 1 end
available, held, team, key = load_state(state, key_id)
local models, operations, free = ARGV[4], ARGV[15], ARGV[16] == '1'

if not (key_rules or team_rules) then
  advance(key, key_limits, now)
  advance(team, team_limits, now)
else
--@include meter_counting
--@include overrides
--@include meters
--@include override_ends
  local of_team, of_key = team_rules and cjson.decode(team_rules) or {}, key_rules and cjson.decode(key_rules) or {}
  override(key, key_limits, of_key.overrides, now)
  override(team, team_limits, of_team.overrides, now)
  advance(key, key_limits, now)
  advance(team, team_limits, now)
  later = wait_beyond
  local of_end_users = of_key.end_users or of_team.end_users
  if not free and (of_key.rules or of_team.rules or of_team['local'] or of_team.dated or of_end_users) then
    local before = read_meters(state, key_id)
    local limited = ARGV[18] == '' and models or ARGV[18]
    rules, wait_under = applied, wait_for
    meters = {
      k = load_meters('key', key, key_limits, of_key, of_team, before.k, limited),
      t = load_meters('team', team, team_limits, of_team, of_team, before.t, limited),
    }
    if of_end_users then
--@include end_users_admission
    end
    counting = {}
    for _, entry in ipairs(rules) do counting[queued_name(entry)] = true end
    if of_team.dated then day = today(before.t or {}, meters.t) end
    if lacks_calendar then return refuse('calendar', '', 0, 0, -1) end
  end
end

local follows = false -- what was kept under the idempotency key is of a call that was made for this request
if mark then
  local id, word, follower = read_mark(mark)
  follows = follower == hold_id or id == hold_id and word == 'waits'
  if id and not follows then
    if word == 'settled' then return refuse('already_answered:' .. id, 'key', 0, 0, -1) end
    if word == 'waits' or redis.call('HEXISTS', held_hash, id) == 1 then
      return refuse('request_in_progress:' .. (follower or id), 'key', 0, 0, 1000)
    end
  end
end

local worst, blocked = nil, {} -- blocked: the scopes whose limits refuse, and the meter of a limit for some models only
local function consider(code, scope, limit, used, wait_ms, pattern, meter)
  blocked[meter and 'meter' or scope] = meter or true
  if not worst or worst.wait_ms >= 0 and (wait_ms < 0 or wait_ms > worst.wait_ms) then
    worst = { code = code, scope = scope, limit = limit, used = used, wait_ms = wait_ms, pattern = pattern }
  end
end

if not permitted(string.lower(key_limits[MODELS] or ''), models) then consider('model_not_allowed', 'key', 0, 0, -1) end
if not permitted(string.lower(team_limits[MODELS] or ''), models) then consider('model_not_allowed', 'team', 0, 0, -1) end
if not permitted(key_limits[FOURTH + 4], operations) then consider('operation_not_allowed', 'key', 0, 0, -1) end
if not permitted(team_limits[FOURTH + 1], operations) then consider('operation_not_allowed', 'team', 0, 0, -1) end

local output = ARGV[11] + 0
local function cap_output(scope, cap)
  if max_output > cap then
    consider('max_output_tokens', scope, cap, max_output, -1)
  elseif max_output < 0 and output > cap then
    -- The reduction is computed in two steps, because tokens x price may exceed 2^53.
    local less, price = output - cap, ARGV[12] + 0
    amount = max(0, amount - less * floor(price / 1000000) - floor(less * (price % 1000000) / 1000000))
    tokens, output = tokens - less, cap
  end
end
if key_limits[MAX_OUTPUT] then cap_output('key', key_limits[MAX_OUTPUT]) end
if team_limits[MAX_OUTPUT] then cap_output('team', team_limits[MAX_OUTPUT]) end

local function check(name, scope, limits)
  local rpm, tpm, slots, over = limits[RPM], limits[TPM], limits[CONCURRENCY], limits.over
  if rpm then
    local wait = bucket_wait(scope[RQ], rpm, 1)
    if over and wait ~= 0 then wait = later(wait, over[RPM], { OF_REQUESTS, scope[RQ] }, rpm) end
    if wait ~= 0 then consider('rpm', name, rpm, ceil(scope[RQ] / MINUTE_MS), wait) end
  end
  if tpm then
    local wait = tokens > 0 and bucket_wait(scope[TK], tpm, tokens) or 0
    if over and wait ~= 0 then wait = later(wait, over[TPM], { OF_TOKENS, scope[TK] }, tpm, 0, tokens) end
    if wait ~= 0 then consider('tpm', name, tpm, ceil(scope[TK] / MINUTE_MS), wait) end
  end
  if slots and scope[OPEN] >= slots then
    local wait = slots > 0 and CONCURRENCY_WAIT_MS or -1
    if over then wait = later(wait, over[CONCURRENCY], { OF_SLOTS, scope[OPEN] }, slots) end
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
        if over then wait = later(wait, over[BUDGETS + i], { OF_USD, used, 0, ends_ms }, limit, more, more, PERIODS[period]) end
        consider('budget_' .. (i <= TOTAL and 'usd_' or 'tokens_') .. PERIODS[period], name, limit, used, wait)
      end
    end
  end
end
if not free then
  local paused = amount > 0 and team_limits[FOURTH + 2] -- settle_v8
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
        local used, wait = wait_under(entry, amount, tokens)
        if wait ~= 0 and entry[5] then wait = later(wait, entry[5], entry[2], limit, amount, tokens, rule[6]) end
        if wait ~= 0 then
        local name, pattern = string.match(rule[2], '^([^@]+)@?(.*)$')
        consider(name, scope, limit, used, wait, pattern, (rule[5] ~= '' or entry[6]) and queued_name(entry))
      end
      end
    end
  end
  if crowd then consider('end_users', 'team', crowd, crowd, MINUTE_MS) end
  if metered and amount > 0 and available < amount then consider('credits', 'team', available, held, -1) end
end
-- From here on the queue may be written, because entries that are no longer renewed are removed.
if queue then
--@permits EXISTS HDEL HINCRBY HSET PEXPIRE SET ZADD
end
local patience_s = key_limits[QUEUE_S] or team_limits[QUEUE_S] or 0
local turn = patience_s > 0 and not free and ARGV[9] ~= '1' and turn_of(queue, state, hold_id, key_id, now,
  key_limits[QUEUE_LENGTH], team_limits[QUEUE_LENGTH], counting)
if worst or turn and turn.behind then
  local reply
  if worst then reply = refuse(worst.code, worst.scope, worst.limit, worst.used, worst.wait_ms, worst.pattern)
  else reply = refuse('queue', turn.behind, turn.waiting, turn.waiting, CONCURRENCY_WAIT_MS) end
  if turn then
    if (not worst or worst.wait_ms >= 0 and WAITABLE[worst.code]) and not turn.is_full then
      if queue then
        local meter, scope = blocked.meter or not worst and turn.meter or '', nil
        if meter ~= '' then scope = string.find('kf', string.sub(meter, 1, 1), 1, true) and 'key' or 'team'
        else scope = (blocked.key or turn.behind == 'key') and 'key' or 'team' end
        wait_on(queue, state, hold_id, key_id, turn, scope, meter, now)
        if follows then redis.call('PEXPIRE', mark, WAITS_MS) end
      end
      reply[20], reply[21] = patience_s, turn.ahead
    elseif queue then leave(queue, state, hold_id) end
  end
  return reply
end
if ARGV[9] == '1' then return answer(1, '', '', 0, 0, 0) end
--@permits HSET ZADD
if mark then
--@permits SET
end
if entries then
--@permits HDEL PEXPIRE
end
if queue then leave(queue, state, hold_id) end

local function reserve(scope, limits)
  scope[OPEN] = scope[OPEN] + 1
  if limits[RPM] then scope[RQ] = scope[RQ] + MINUTE_MS end
  if limits[TPM] then scope[TK] = scope[TK] + tokens * MINUTE_MS end
  add_used(scope, now, amount, tokens)
end
local counted, team_meters, key_meters = '', nil, nil -- counted: the meters' names; the others: the packed meters
if rules then
  for _, entry in ipairs(rules) do
    local rule, meter = entry[1], entry[2]
    local kind = meter[1]
    if kind == OF_REQUESTS then meter[2] = meter[2] + (entry[4] and MINUTE_MS or 0)
    elseif kind == OF_TOKENS then meter[2] = meter[2] + (entry[4] and tokens * MINUTE_MS or 0)
    elseif kind == OF_SLOTS then meter[2] = meter[2] + 1
    else
      local at = kind >= OF_LAST_USD and NEWEST or 2
      meter[at] = meter[at] + (rule[3] == OF_USD and amount or tokens)
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
  available = available - amount
  if rules then
    save_state(state, key_id, available, held + amount, team, key, 'meter_window', team_meters, key_id .. ':meter_window', key_meters)
  else save_state(state, key_id, available, held + amount, team, key) end
  redis.call('ZADD', holds, now + ARGV[8], hold_id)
  redis.call('HSET', held_hash, hold_id, string.format('%d %d %d %s %d%s', amount, tokens, now, key_id, buckets, counted))
end
-- Records to the second when each secret was last used. After a rotation this shows who still uses the old one.
if now - (tonumber(key_limits[FOURTH + 2] or '0') or 0) >= 1000 then redis.call('HSET', key_hash, 'u:' .. secret_hash, now) end
if mark then redis.call('SET', mark, ARGV[19] == '' and hold_id or hold_id .. ' >' .. ARGV[19], 'PX', ARGV[10]) end
local reply = answer(1, '', '', 0, 0, 0)
if rules then reply[18], reply[19] = string.sub(counted, 2), day end
return reply
