-- For admission: requests that wait for their turn, instead of being refused at a limit that clears.
--
-- The team's queue is a hash: hold id -> "<arrived, us> <seen, ms> <key id> <key or team>[ <meter>]". The fourth word says
-- whose limit stands in the way, the last one its meter where it is one of some models alone (meter_counting.lua). A
-- request waits behind all that arrived earlier with the same key, and behind those of other keys that wait for the team;
-- but behind those that wait for some models only if it is for one of these. It asks again a few times per second, which renews "seen"; what was not seen for a while
-- has gone with its worker. Nothing is held for it. While somebody waits, the field "queued" of the team's state says so,
-- and until when, so that nobody who comes later goes first.
local SILENT_MS, KEPT_MS = 2000, 60000
local WAITABLE = { rpm = true, tpm = true, concurrency = true }

-- Returns the place of a request: `behind` whose requests it waits ("key", "team" or nil: it is its turn), how many are
-- `ahead` and `waiting`, when it `arrived`, and whether the queue `is_full`. `room_*` are nil where nothing bounds it.
-- `meters` are those that count it (as keys of a table). `meter` is the one of the models for which it waits, if those
-- whom it waits behind all wait for models.
local function turn_of(queue, state, id, key_id, now, room_key, room_team, meters)
  local turn = { ahead = 0, waiting = 0, is_full = not (room_key or room_team) or room_key == 0 or room_team == 0 }
  if not queue then
    local queued = redis.call('HGET', state, 'queued')
    if queued and now < queued + 0 and not turn.is_full then turn.behind = 'team' end
    return turn
  end
  local entries, others, of_key = redis.call('HGETALL', queue), {}, 0
  for i = 1, #entries, 2 do
    local arrived, seen, whose, scope, meter = string.match(entries[i + 1], '^(%d+) (%d+) (%w+) (%a+) ?(%S*)$')
    if entries[i] == id then turn.arrived = arrived + 0
    elseif now - seen > SILENT_MS then redis.call('HDEL', queue, entries[i])
    else
      others[#others + 1] = { arrived = arrived + 0, whose = whose, scope = scope, meter = meter }
      if whose == key_id then of_key = of_key + 1 end
    end
  end
  turn.waiting = #others
  if not turn.arrived then
    local time = redis.call('TIME')
    turn.arrived = time[1] * 1000000 + time[2]
    turn.is_full = turn.is_full or room_key and of_key >= room_key or room_team and #others >= room_team
  end
  for _, other in ipairs(others) do
    local concerns = other.whose == key_id or other.scope == 'team'
    if other.arrived < turn.arrived and concerns and (other.meter == '' or meters and meters[other.meter]) then
      turn.meter = (turn.ahead == 0 or turn.meter ~= '') and other.meter or ''
      turn.ahead = turn.ahead + 1
      if other.whose == key_id then turn.behind = 'key' else turn.behind = turn.behind or 'team' end
    end
  end
  return turn
end

local function wait_on(queue, state, id, key_id, turn, scope, meter, now)
  local entry = string.format('%.0f %d %s %s', turn.arrived, now, key_id, scope)
  redis.call('HSET', queue, id, meter == '' and entry or entry .. ' ' .. meter)
  redis.call('PEXPIRE', queue, KEPT_MS)
  redis.call('HSET', state, 'queued', now + SILENT_MS)
end

local function leave(queue, state, id)
  redis.call('HDEL', queue, id)
  if redis.call('EXISTS', queue) == 0 then redis.call('HDEL', state, 'queued') end
end
