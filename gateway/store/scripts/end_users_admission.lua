-- For admission: the limits of each end user. Inside of a block, behind meters.lua; the locals that it sets and reads are the
-- script's. A new end user takes a place among those that are counted; without room it is refused, because to count it
-- with others would let it pass its limit.
--@include end_users
local SAMPLE, LARGE_SAMPLE = 3, 20

local most, over_entries, kept_ms = nil, {}, nil
most, end_user = string.match(ARGV[20], '^(%d+) (%w*)$')
entries, kept_ms = read_entries(end_users, key_id, end_user)
local new = 0
for scope, compiled in pairs({ e = of_team.end_users, f = of_key.end_users }) do
  local known, from = entries[scope], #applied + 1
  local entry = known or { 0, 0 }
  entry[3] = load_meters('end_user', nil, nil, { rules = compiled }, { zone = of_team.zone }, entry[3], limited)
  for at = from, #applied do applied[at][6] = scope end
  -- An entry of which no rule applies stays as it is.
  entries[scope] = from <= #applied and entry or nil
  new = new + (entries[scope] and not known and 1 or 0)
end
if end_user == '' and next(entries) then return refuse('no_end_user', entries.e and 'team' or 'key', 0, 0, -1) end
if new > 0 then
  local counted = redis.call('HLEN', end_users)
  local sample = counted > 0 and redis.call('HRANDFIELD', end_users, counted + new > most + 0 and LARGE_SAMPLE or SAMPLE, 'WITHVALUES') or {}
  for i = 1, #sample, 2 do
    if is_over(sample[i + 1], now) and sample[i] ~= end_user and sample[i] ~= key_id .. ':' .. end_user then over_entries[#over_entries + 1] = sample[i] end
  end
  if counted + new - #over_entries > most + 0 then crowd = counted end
end

function save_end_users()
  if #over_entries > 0 then redis.call('HDEL', end_users, unpack(over_entries)) end
  for _, entry in pairs(entries) do entry[1], entry[2] = max(entry[1], now), entry[2] + 1 end
  for _, one in ipairs(applied) do
    local entry, limit, over = one[6] and entries[one[6]], one[4], one[5]
    if entry then
      if over and over[2] and limit then limit = min(limit, over[2]) end
      entry[1] = max(entry[1], counts_until(one[2], limit or over and over[2], now))
    end
  end
  save_entries(end_users, key_id, end_user, entries, kept_ms, now)
end
