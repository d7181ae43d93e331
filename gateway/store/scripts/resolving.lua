-- For the scripts that end holds: what a hold reserved is replaced by what was used. Behind common.lua.

-- Parses a hold: "amount tokens admitted_ms key_id buckets". `buckets` says whose bucket holds its tokens: 1 the key's,
-- 2 the team's, 3 both.
local function parse_hold(text)
  local amount, tokens, admitted, key_id, buckets = string.match(text, '^(%d+) (%d+) (%d+) (%w+) (%d)$')
  return {
    amount = amount + 0, tokens = tokens + 0, admitted_ms = admitted + 0, key_id = key_id,
    in_key_bucket = buckets % 2 == 1, in_team_bucket = buckets + 0 >= 2,
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

local function resolve_scope(scope, hold, reserved, limits, now, cost, tokens, slots)
  advance(scope, limits, now)
  scope[OPEN] = max(0, scope[OPEN] - slots)
  if limits and limits[TPM] then scope[TK] = corrected(scope[TK], hold, reserved, tokens, limits[TPM], now) end
  add_used(scope, hold.admitted_ms, cost - hold.amount, tokens - hold.tokens)
end

-- Resolves a hold in one step: returns its money to `available`, frees its slot and its share of the budgets, and posts
-- the cost. The buckets keep the tokens that were used. `limits` are those of team and key; with nil the buckets are
-- not changed, because tokens reserved by a gateway that died count as used and drain. Returns the balance.
--
-- With `records`, so many are added to the number of records in the newest index, which is kept as
-- its week * 2^32 + the number. `week` is that of the index at hand, in the same form. Then the sum is returned, too.
local function resolve(state, hold, now, team_limits, key_limits, cost, tokens, slots, week, records)
  local available, held, team, key, spent, indexed = load_state(state, hold.key_id, 'spent', 'indexed')
  resolve_scope(team, hold, hold.in_team_bucket, team_limits, now, cost, tokens, slots)
  resolve_scope(key, hold, hold.in_key_bucket, key_limits, now, cost, tokens, slots)
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
