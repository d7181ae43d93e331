-- For admission: the queue of a team's requests that wait at a limit until it permits them, instead of being refused.
--
-- The queue is a hash: hold id -> "<arrived, us> <seen, ms> <key id> <key or team>[ <meter>]". The fourth value says
-- whose limit the request waits for. The last value is the meter of that limit, if the limit is for some models only
-- (meter_counting.lua). A request waits behind all earlier requests of its key, and behind earlier requests of other
-- keys that wait for a limit of the team. It waits behind a request that waits for some models only if it is for one of
-- these models. A waiting request repeats its admission a few times per second, which renews "seen". An entry that has
-- not been renewed for SILENT_MS is removed, because its worker has died. Nothing is reserved for a waiting request.
-- While requests wait, the field "queued" of the team's state has a time until which requests without a place in the
-- queue must join it.
local SILENT_MS, KEPT_MS = 2000, 60000
local WAITABLE = { rpm = true, tpm = true, concurrency = true }

-- Returns the place of a request in the queue, a table. `behind`: "key" or "team", whose earlier requests it must wait
-- for; nil if it is its turn. `ahead`, `waiting`: how many requests it must wait for, and how many wait in all.
-- `arrived`: when it arrived. `is_full`: whether the queue is full. `meter`: if all requests ahead wait for some
-- models, the meter of the last one of them; otherwise "". `max_of_key`, `max_of_team`: the maximum number of waiting
-- requests, or nil. `meters`: the meters that count the request, as keys of a table.
local function place_in_queue(queue, state, id, key_id, now, max_of_key, max_of_team, meters)
  local place = { ahead = 0, waiting = 0, is_full = not (max_of_key or max_of_team) or max_of_key == 0 or max_of_team == 0 }
  if not queue then
    local queued = redis.call('HGET', state, 'queued')
    if queued and now < queued + 0 and not place.is_full then place.behind = 'team' end
    return place
  end
  local entries, others, waiting_of_key = redis.call('HGETALL', queue), {}, 0
  for i = 1, #entries, 2 do
    local arrived, seen, whose, scope, meter = string.match(entries[i + 1], '^(%d+) (%d+) (%w+) (%a+) ?(%S*)$')
    if entries[i] == id then place.arrived = arrived + 0
    elseif now - seen > SILENT_MS then redis.call('HDEL', queue, entries[i])
    else
      others[#others + 1] = { arrived = arrived + 0, whose = whose, scope = scope, meter = meter }
      if whose == key_id then waiting_of_key = waiting_of_key + 1 end
    end
  end
  place.waiting = #others
  if not place.arrived then
    local time = redis.call('TIME')
    place.arrived = time[1] * 1000000 + time[2]
    place.is_full = place.is_full or max_of_key and waiting_of_key >= max_of_key or max_of_team and #others >= max_of_team
  end
  for _, other in ipairs(others) do
    local can_block = other.whose == key_id or other.scope == 'team'
    if other.arrived < place.arrived and can_block and (other.meter == '' or meters and meters[other.meter]) then
      place.meter = (place.ahead == 0 or place.meter ~= '') and other.meter or ''
      place.ahead = place.ahead + 1
      if other.whose == key_id then place.behind = 'key' else place.behind = place.behind or 'team' end
    end
  end
  return place
end

-- Puts a request into the queue, or renews its entry.
local function join_queue(queue, state, id, key_id, place, scope, meter, now)
  local entry = string.format('%.0f %d %s %s', place.arrived, now, key_id, scope)
  redis.call('HSET', queue, id, meter == '' and entry or entry .. ' ' .. meter)
  redis.call('PEXPIRE', queue, KEPT_MS)
  redis.call('HSET', state, 'queued', now + SILENT_MS)
end

-- Removes a request from the queue.
local function leave_queue(queue, state, id)
  redis.call('HDEL', queue, id)
  if redis.call('EXISTS', queue) == 0 then redis.call('HDEL', state, 'queued') end
end
