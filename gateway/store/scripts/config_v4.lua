-- config_v4: changes the hash of a team or a key, all fields at once.
--
-- A bucket contains what was used at its rate. When a rate is lowered, the bucket would need as many minutes to drain as
-- the new rate fits into the old one, and every request would be refused meanwhile. The bucket is therefore cut to what
-- the new rate permits in one minute, in the same step. What running requests have reserved and do not use is returned as
-- before, until the bucket is empty.
--
-- KEYS 1 hash  2 state
-- ARGV 1 version that the caller saw, or "" for any  2 name that the caller saw, or "" for any
--      3 the latest time at which this may run, by the server's clock in ms; "" for any time
--      4 key id, or "" for a team  5 the rates whose buckets may be cut, one per line: rpm, tpm
--      6... field, value; an empty value removes the field
-- Returns {1 done | -1 does not exist | -2 another version | -3 archived (deleted), or permanently revoked | -4 another name
--   | -5 too late, version now}
--@include common
--@include limits
--@include fields
local hash, state, key_id, now = KEYS[1], KEYS[2], ARGV[4], server_ms()
local seen = redis.call('HMGET', hash, 'version', 'status', 'name')
local version, status = tonumber(seen[1] or false), seen[2]
if not version then return { -1, 0 } end
if is_late(ARGV[3], now) then return { -5, version } end
if status == 'archived' then return { -3, version } end
if status == 'revoked' then
  for i = 6, #ARGV, 2 do
    if ARGV[i] == 'status' and ARGV[i + 1] ~= 'revoked' and ARGV[i + 1] ~= 'archived' then return { -3, version } end
  end
end
if ARGV[1] ~= '' and tonumber(ARGV[1]) ~= version then return { -2, version } end
if ARGV[2] ~= '' and ARGV[2] ~= (seen[3] or '') then return { -4, version } end

local _, _, team, key = load_state(state, key_id)
local scope = key_id == '' and team or key
-- Returns the limits that hold now, and brings the buckets beyond the ends of overrides.
local function present_limits()
--@include overrides
  local limits = load_limits(hash, 'rules')
  local rules = limits[LAST_LIMIT + 1]
  override(scope, limits, rules and cjson.decode(rules).overrides, now)
  return limits
end

local before = ARGV[5] ~= '' and present_limits()
if before then
  drain(scope, REQUEST_LEVEL, before[RPM], now)
  drain(scope, TOKEN_LEVEL, before[TPM], now)
end
redis.call('HSET', hash, 'version', version + 1, 'updated_ms', now)
put_fields(hash, 6)
if before then
  local after, was_cut = present_limits(), false
  for name in string.gmatch(ARGV[5], '%a+') do
    local place, level = RPM, REQUEST_LEVEL
    if name == 'tpm' then place, level = TPM, TOKEN_LEVEL end
    local old, new = before[place], after[place]
    -- 0 is for a while only, and refuses every request: what was used is still used behind its end.
    if old and new and new > 0 and new < old and scope[level] > new * MINUTE_MS then
      scope[level], was_cut = new * MINUTE_MS, true
    end
  end
  if was_cut then
    redis.call('HSET', state, key_id == '' and 'window' or key_id .. ':window',
      ARRAY_HEAD .. cmsgpack.pack(unpack(scope, REQUEST_LEVEL, REQUEST_LEVEL + WINDOW_COUNTERS - 1)))
  end
end
return { 1, version + 1 }
