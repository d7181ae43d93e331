-- For the scripts that end holds: replaces the reserved amounts by the used ones. Included after common.lua.

-- Parses a hold: "amount tokens admitted_ms key_id buckets[ meters]". `buckets` says whose bucket holds its tokens: 1
-- the key's, 2 the team's, 3 both. `meters` names those that count it (meter_counting.lua), and the end user
-- (end_users.lua).
local function parse_hold(text)
  local amount, tokens, admitted, key_id, buckets, counted = string.match(text, '^(%d+) (%d+) (%d+) (%w+) (%d) ?([%w_.,]*)$')
  local names, end_user = string.match(counted, '^(.*),u(%w+)$')
  return {
    amount = amount + 0, tokens = tokens + 0, admitted_ms = admitted + 0, key_id = key_id,
    in_key_bucket = buckets % 2 == 1, in_team_bucket = buckets + 0 >= 2,
    counted = counted ~= '' and (names or counted), end_user = end_user,
  }
end

-- Replaces the reserved tokens in a bucket by the tokens that were used. Reserved tokens drain like used ones.
-- Returning what has drained already would give back what others used, so at most what can be left of the reservation
-- is returned.
local function corrected(level, hold, reserved, tokens, limit, now)
  if not reserved then return level + tokens * MINUTE_MS end
  if tokens >= hold.tokens then return level + (tokens - hold.tokens) * MINUTE_MS end
  local left = max(0, hold.tokens * MINUTE_MS - max(0, now - hold.admitted_ms) * limit)
  return max(0, level - min((hold.tokens - tokens) * MINUTE_MS, left))
end

-- Replaces the tokens in a bucket, whose limit is `tpm`. A level that only falls need not be drained before.
local function refill(bucket, level, hold, reserved, tpm, now, tokens)
  if not reserved or tokens > hold.tokens then drain(bucket, level, tpm, now) end
  bucket[level] = corrected(bucket[level], hold, reserved, tokens, tpm, now)
end

-- The same for a limit that changes at a time: `tpm` until then, and `again` from then on; each may be false for none.
local function refill_overridden(bucket, level, hold, reserved, tpm, until_ms, again, now, tokens)
--@include overrides
  if now >= until_ms then
    if reserved and tpm and tokens <= hold.tokens and bucket[level + 1] <= until_ms then
      refill(bucket, level, hold, reserved, tpm, until_ms, tokens)
      return
    end
    pass_end(bucket, level, tpm, until_ms, again)
    -- What it had reserved may have been cut off at the end, so that nothing of it is given back.
    if tpm and again and hold.admitted_ms < until_ms and again < tpm then tokens = max(tokens, hold.tokens) end
    tpm = again
  end
  if tpm then refill(bucket, level, hold, reserved, tpm, now, tokens) end
end

local function resolve_scope(scope, hold, reserved, tpm, now, cost, tokens, slots, over)
  advance(scope, nil, now)
  scope[OPEN] = max(0, scope[OPEN] - slots)
  if over then refill_overridden(scope, TK, hold, reserved, over[2], over[3], tpm, now, tokens)
  elseif tpm then refill(scope, TK, hold, reserved, tpm, now, tokens) end
  add_used(scope, hold.admitted_ms, cost - hold.amount, tokens - hold.tokens)
end

-- Resolves a hold in one step: returns its money to `available`, frees its slot and its share of the budgets, and posts
-- the cost. The buckets keep the tokens that were used. `tpm` are the limits of their rates, of team and key. Where
-- `tokens` is nil the buckets are not changed, because tokens reserved by a gateway that died count as used and drain.
-- `over` has the overrides of these limits, `t` of the team's and `k` of the key's (overrides.lua). `hold.end_users` is the key of
-- the hash that counts for end users. Returns the balance.
--
-- With `records`, so many are added to the number of records in the newest index, which is kept as
-- its week * 2^32 + the number. `week` is that of the index at hand, in the same form. Then the sum is returned, too.
local function resolve(state, hold, now, team_tpm, key_tpm, cost, tokens, slots, week, records, over)
  local available, held, team, key, spent, indexed = load_state(state, hold.key_id, 'spent', 'indexed')
  local used = tokens or 0
  resolve_scope(team, hold, hold.in_team_bucket, tokens and team_tpm, now, cost, used, slots, over and over.t)
  resolve_scope(key, hold, hold.in_key_bucket, tokens and key_tpm, now, cost, used, slots, over and over.k)
  if hold.counted then
--@include meter_counting
    local meters, entries, kept_ms, save_resolved = read_meters(state, hold.key_id), nil, nil, nil
    if hold.end_user then
--@include end_users_resolving
      entries, kept_ms = read_entries(hold.end_users, hold.key_id, hold.end_user)
      for scope, entry in pairs(entries) do meters[scope] = entry[3] end
      save_resolved = save_counted
    end
    for scope, id in string.gmatch(hold.counted, '([tkef])([^,]+)') do
      local meter = meters[scope] and meters[scope][id]
      if meter and meter[1] == OF_TOKENS then
        local limit, again = meter[4] > 0 and meter[4], meter[6] and meter[6] > 0 and meter[6]
        if tokens and meter[5] then refill_overridden(meter, 2, hold, slots > 0, limit, meter[5], again, now, tokens)
        elseif tokens and limit then refill(meter, 2, hold, slots > 0, limit, now, tokens) end
      elseif meter then count_in_meter(meter, hold.admitted_ms, cost - hold.amount, used - hold.tokens, -slots) end
    end
    redis.call('HSET', state, 'meter_window', cmsgpack.pack(meters.t or {}),
      hold.key_id .. ':meter_window', cmsgpack.pack(meters.k or {}))
    if save_resolved then save_resolved(hold, hold.counted, entries, kept_ms, now, -slots) end
  end
  available, held, spent = available + hold.amount - cost, held - hold.amount, (spent or 0) + 0
  indexed = max((indexed or 0) + 0, week or 0) + (records or 0)
  if spent < LARGE then
    save_state(state, hold.key_id, available, held, team, key, 'spent', spent + cost, 'indexed', indexed)
  else
    save_state(state, hold.key_id, available, held, team, key, 'indexed', indexed)
    redis.call('HINCRBY', state, 'spent', cost)
  end
  return available + held, indexed % 4294967296
end
