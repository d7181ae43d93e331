-- For the scripts that count for each end user by itself. Inside of a block, after common.lua and meter_counting.lua.
--
-- The team's hash "end-users" has an entry for each end user that a limit counts: "<end user>" by the team's own limits,
-- "<key id>:<end user>" by those of a key. An end user is a digest, or "none" for all requests that name nobody. An entry is
-- a sequence of MessagePack values: until when it counts (server's ms), how many of its requests run, its meters.
-- An entry that counts nothing any more, and of which nothing runs, is dropped as others come. What has run for a week by
-- its count has ended with a worker of an earlier version, which did not reduce the count.
-- A hold names these meters too: "e<id>" by the team's rules, "f<id>" by the key's, and behind all of them "u<end user>".
local WEEK_MS = 604800000
local COUNTS_UNTIL, RUNNING, METERS = 1, 2, 3 -- places of an entry's values

-- Returns the entries of an end user by scope, e and f, and for how long the hash is kept, in ms.
local function read_entries(end_users, key_id, user)
  local packed = redis.call('HMGET', end_users, user, key_id .. ':' .. user)
  return {
    e = packed[1] and { cmsgpack.unpack(packed[1]) } or nil, f = packed[2] and { cmsgpack.unpack(packed[2]) } or nil,
  }, redis.call('PTTL', end_users)
end

-- Whether an entry counts nothing any more, so that it can be dropped.
local function has_lapsed(packed, now)
  local until_ms, running = cmsgpack.unpack(packed)
  return now >= until_ms + (running > 0 and WEEK_MS or 0)
end

-- Until when a meter counts. `limit`: of a rate.
local function counts_until(meter, limit, now)
  local kind = meter[METER_KIND]
  if kind < KIND_RUNNING then return limit and limit > 0 and now + math.ceil(meter[METER_USED] / limit) or 0 end
  if kind == KIND_RUNNING then return 0 end
  if kind < KIND_LAST_USD then return meter[PERIOD_END] end
  return (meter[SLOT_NUMBER] + SLOTS) * meter[SLOT_MS]
end

local function save_entries(end_users, key_id, user, entries, kept_ms, now)
  local fields, until_ms = {}, now
  for scope, entry in pairs(entries) do
    fields[#fields + 1] = scope == 'e' and user or key_id .. ':' .. user
    fields[#fields + 1] = cmsgpack.pack(unpack(entry, 1, 3))
    until_ms = max(until_ms, entry[COUNTS_UNTIL])
  end
  if #fields == 0 then return end
  redis.call('HSET', end_users, unpack(fields))
  local wanted_ms = until_ms - now + WEEK_MS
  if kept_ms < wanted_ms - DAY_MS then redis.call('PEXPIRE', end_users, wanted_ms) end
end
