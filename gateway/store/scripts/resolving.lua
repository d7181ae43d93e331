-- For the scripts that end holds: replaces the reserved amounts by the used ones. Included after common.lua.

-- Parses a hold: "amount tokens admitted_ms key_id buckets[ names]". `buckets` says whose bucket holds its tokens: 1
-- the key's, 2 the team's, 3 both. `names` are what it took of lots (lots.lua), the meters that count it
-- (meter_counting.lua), and the end user (end_users.lua).
local function parse_hold(text)
  local amount, tokens, admitted, key_id, buckets, counted = string.match(text, '^(%d+) (%d+) (%d+) (%w+) (%d) ?([%w_.,]*)$')
  local lots, end_user, names
  if string.byte(counted) == 108 then lots, counted = string.match(counted, '^([l%d.,]+)(.*)$') end -- 108: "l"
  names, end_user = string.match(counted, '^(.*),u(%w+)$')
  return {
    amount = amount + 0, tokens = tokens + 0, admitted_ms = admitted + 0, key_id = key_id,
    in_key_bucket = buckets % 2 == 1, in_team_bucket = buckets + 0 >= 2,
    counted = counted ~= '' and (names or counted), end_user = end_user, lots = lots,
  }
end

-- Replaces the reserved tokens in a bucket by the tokens that were used. Reserved tokens drain like used ones.
-- Returning what has drained already would give back what others used, so at most what can be left of the reservation
-- is returned.
local function corrected_level(level, hold, is_reserved, tokens, limit, now)
  if not is_reserved then return level + tokens * MINUTE_MS end
  if tokens >= hold.tokens then return level + (tokens - hold.tokens) * MINUTE_MS end
  local left = max(0, hold.tokens * MINUTE_MS - max(0, now - hold.admitted_ms) * limit)
  return max(0, level - min((hold.tokens - tokens) * MINUTE_MS, left))
end

-- Replaces the tokens in a bucket, whose limit is `tpm`. A level that only falls need not be drained before.
local function refill(bucket, level, hold, is_reserved, tpm, now, tokens)
  if not is_reserved or tokens > hold.tokens then drain(bucket, level, tpm, now) end
  bucket[level] = corrected_level(bucket[level], hold, is_reserved, tokens, tpm, now)
end

-- The same for a limit that changes at a time: `tpm` until then, and `later_tpm` from then on; each may be false for none.
local function refill_overridden(bucket, level, hold, is_reserved, tpm, until_ms, later_tpm, now, tokens)
--@include overrides
  if now >= until_ms then
    if is_reserved and tpm and tokens <= hold.tokens and bucket[level + 1] <= until_ms then
      refill(bucket, level, hold, is_reserved, tpm, until_ms, tokens)
      return
    end
    pass_override_end(bucket, level, tpm, until_ms, later_tpm)
    -- What it had reserved may have been cut off at the end, so that nothing of it is given back.
    if tpm and later_tpm and hold.admitted_ms < until_ms and later_tpm < tpm then tokens = max(tokens, hold.tokens) end
    tpm = later_tpm
  end
  if tpm then refill(bucket, level, hold, is_reserved, tpm, now, tokens) end
end

local function resolve_scope(scope, hold, is_reserved, tpm, now, cost, tokens, slots, tpm_override)
  advance(scope, nil, now)
  scope[OPEN] = max(0, scope[OPEN] - slots)
  if tpm_override then
    local value, until_ms = tpm_override[OVERRIDE_VALUE], tpm_override[OVERRIDE_UNTIL]
    refill_overridden(scope, TOKEN_LEVEL, hold, is_reserved, value, until_ms, tpm, now, tokens)
  elseif tpm then refill(scope, TOKEN_LEVEL, hold, is_reserved, tpm, now, tokens) end
  add_used(scope, hold.admitted_ms, cost - hold.amount, tokens - hold.tokens)
end

-- Resolves a hold in one step: returns its money to `available`, frees its slot and its share of the budgets, and posts
-- the cost. The buckets keep the tokens that were used. `tpm` are the limits of their rates, of team and key. Where
-- `tokens` is nil the buckets are not changed, because tokens reserved by a gateway that died count as used and drain.
-- `tpm_overrides` has the overrides of these limits, `t` of the team's and `k` of the key's (overrides.lua). `hold.end_users`
-- is the key of the hash that counts for end users. A negative cost lowers an earlier charge of `hold.charged`;
-- `hold.paid_by` names the lots that paid for that. Credits that have expired are journalled. Returns the balance.
--
-- The field "indexed" of the state has the week of the newest index * 2^32 + the number of its records. `week` is that
-- of the index to which a settlement adds `records`, in the same form. The new number is the second value that is
-- returned. The third has the names of the lots that paid, or "".
local function resolve(state, journal, hold, now, team_tpm, key_tpm, cost, tokens, slots, week, records, tpm_overrides)
  local available, held, team, key, spent, indexed, packed_lots =
    load_state(state, hold.key_id, 'spent', 'indexed', 'lot_window')
  local used, save_lots, paid_by = tokens or 0, nil, ''
  if hold.lots or hold.paid_by or packed_lots and packed_lots ~= '' then
--@include lots
    local lots = packed_lots and packed_lots ~= '' and cmsgpack.unpack(packed_lots) or {}
    local before, stored = available + held, available + hold.amount - cost
    if hold.paid_by then lower_charge(lots, hold.paid_by, hold.charged + cost)
    else paid_by = charge_lots(lots, hold.lots or '', cost, now) end
    available = available + without_expired(lots, stored, now) - stored
    function save_lots()
      post_lapsed(state, journal, lots, now, before)
      redis.call('HSET', state, 'lot_window', pack_lots(lots, now))
    end
  end
  resolve_scope(team, hold, hold.in_team_bucket, tokens and team_tpm, now, cost, used, slots, tpm_overrides and tpm_overrides.t)
  resolve_scope(key, hold, hold.in_key_bucket, tokens and key_tpm, now, cost, used, slots, tpm_overrides and tpm_overrides.k)
  if hold.counted then
--@include meter_counting
    local meters, entries, kept_ms, save_resolved = read_meters(state, hold.key_id), nil, nil, nil
    if hold.end_user then
--@include end_users_resolving
      entries, kept_ms = read_entries(hold.end_users, hold.key_id, hold.end_user)
      for scope, entry in pairs(entries) do meters[scope] = entry[METERS] end
      save_resolved = save_counted
    end
    for scope, id in string.gmatch(hold.counted, '([tkef])([^,]+)') do
      local meter = meters[scope] and meters[scope][id]
      if meter and meter[METER_KIND] == KIND_TOKENS then
        local limit, later_tpm = meter[TOKEN_LIMIT] > 0 and meter[TOKEN_LIMIT], meter[TOKEN_LIMIT_AFTER]
        later_tpm = later_tpm and later_tpm > 0 and later_tpm
        if tokens and meter[TOKEN_LIMIT_END] then
          refill_overridden(meter, METER_USED, hold, slots > 0, limit, meter[TOKEN_LIMIT_END], later_tpm, now, tokens)
        elseif tokens and limit then refill(meter, METER_USED, hold, slots > 0, limit, now, tokens) end
      elseif meter then count_in_meter(meter, hold.admitted_ms, cost - hold.amount, used - hold.tokens, -slots) end
    end
    redis.call('HSET', state, 'meter_window', cmsgpack.pack(meters.t or {}),
      hold.key_id .. ':meter_window', cmsgpack.pack(meters.k or {}))
    if save_resolved then save_resolved(hold, hold.counted, entries, kept_ms, now, -slots) end
  end
  if save_lots then save_lots() end
  available, held, spent = available + hold.amount - cost, held - hold.amount, (spent or 0) + 0
  indexed = max((indexed or 0) + 0, week or 0) + (records or 0)
  if spent < LARGE then
    save_state(state, hold.key_id, available, held, team, key, 'spent', spent + cost, 'indexed', indexed)
  else
    save_state(state, hold.key_id, available, held, team, key, 'indexed', indexed)
    redis.call('HINCRBY', state, 'spent', cost)
  end
  return available + held, indexed % 4294967296, paid_by
end
