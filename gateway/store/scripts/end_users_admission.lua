-- For admission: the limits of each end user. Inside of a block, after meters.lua. The locals that it sets and reads are those
-- of the script. A new end user takes a place among those that are counted; without room it is refused, because to count it
-- with others would let it pass its limit.
--@include end_users
local SAMPLE, LARGE_SAMPLE = 3, 20

local max_end_users, lapsed_entries, kept_ms = nil, {}, nil
max_end_users, end_user = string.match(ARGV[20], '^(%d+) (%w*)$')
entries, kept_ms = read_entries(end_users, key_id, end_user)
local new = 0
for scope, compiled in pairs({ e = team_compiled.end_users, f = key_compiled.end_users }) do
  local known, from = entries[scope], #applied + 1
  local entry = known or { 0, 0 }
  entry[METERS] = load_meters('end_user', nil, nil, { rules = compiled }, { zone = team_compiled.zone }, entry[METERS],
    counted_patterns)
  for at = from, #applied do applied[at][END_USER_SCOPE] = scope end
  -- An entry of which no rule applies stays as it is.
  entries[scope] = from <= #applied and entry or nil
  new = new + (entries[scope] and not known and 1 or 0)
end
if end_user == '' and next(entries) then return refuse('no_end_user', entries.e and 'team' or 'key', 0, 0, -1) end
if new > 0 then
  local counted = redis.call('HLEN', end_users)
  local size = counted + new > max_end_users + 0 and LARGE_SAMPLE or SAMPLE
  local sample = counted > 0 and redis.call('HRANDFIELD', end_users, size, 'WITHVALUES') or {}
  for i = 1, #sample, 2 do
    local is_own = sample[i] == end_user or sample[i] == key_id .. ':' .. end_user
    if has_lapsed(sample[i + 1], now) and not is_own then lapsed_entries[#lapsed_entries + 1] = sample[i] end
  end
  if counted + new - #lapsed_entries > max_end_users + 0 then counted_end_users = counted end
end

function save_end_users()
  for _, entry in pairs(entries) do
    entry[COUNTS_UNTIL], entry[RUNNING] = max(entry[COUNTS_UNTIL], now), entry[RUNNING] + 1
  end
  for _, item in ipairs(applied) do
    local entry, limit, override_end = item[END_USER_SCOPE] and entries[item[END_USER_SCOPE]], item[LIMIT], item[OVERRIDE_END]
    if entry then
      local limit_after = override_end and override_end[LIMIT_AFTER]
      if limit_after and limit then limit = min(limit, limit_after) end
      entry[COUNTS_UNTIL] = max(entry[COUNTS_UNTIL], counts_until(item[METER], limit or limit_after, now))
    end
  end
  save_entries(end_users, key_id, end_user, entries, kept_ms, now)
  -- Afterwards, because a hash without fields would be deleted, and its TTL with it.
  if #lapsed_entries > 0 then redis.call('HDEL', end_users, unpack(lapsed_entries)) end
end
