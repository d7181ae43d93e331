-- names_v1: changes the names of teams. A change reserves the names, changes the team, and commits. If its worker dies
-- in between, the next worker that finds the change repairs it.
--
-- KEYS 1 names: name -> team id  2 changes: name -> "<token> <until, ms> <team id>", the changes in progress
-- ARGV 1 step  2...
--   reserve  2 token  3 life, ms  4 team id  5... names
--            returns {1, present owner or "" of each name} | {0, name, text, ms left}: another change has reserved it
--              | {-1, name, text, 0}: a change that has died has reserved it; repair it first
--   commit   2 token  3 team id  4 name from now on, or ""  5 name until now, or ""
--            returns 1, or 0 if the reservation is gone because another worker has repaired it
--   release  2 token  3... names                    returns 1
--   look     2 name                                 returns {owner or "", text or "", 1 if the change has died}
--   dead                                            returns {name, text, ...} of all changes that have died
--   repair   2 name  3 text  4 id of the team that has the name, or ""   returns 1, or 0 if it has changed since
--   heal     2 name  3 owner that was read, or ""  4 id of the team that has the name   returns 1, or 0 likewise
local names, changes, step = KEYS[1], KEYS[2], ARGV[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function parse_change(text) return string.match(text, '^(%S+) (%d+) (%S+)$') end

if step == 'reserve' then
  for i = 5, #ARGV do
    local text = redis.call('HGET', changes, ARGV[i])
    if text then
      local token, until_ms = parse_change(text)
      local left = until_ms - now
      if token ~= ARGV[2] then return { left > 0 and 0 or -1, ARGV[i], text, math.max(0, left) } end
    end
  end
  local reply = { 1 }
  for i = 5, #ARGV do
    redis.call('HSET', changes, ARGV[i], string.format('%s %d %s', ARGV[2], now + ARGV[3], ARGV[4]))
    reply[#reply + 1] = redis.call('HGET', names, ARGV[i]) or ''
  end
  return reply
end

local function reserved(name) return parse_change(redis.call('HGET', changes, name) or '') == ARGV[2] end

if step == 'commit' then
  local id, name, before = ARGV[3], ARGV[4], ARGV[5]
  if name ~= '' and not reserved(name) or before ~= '' and not reserved(before) then return 0 end
  if before ~= '' then
    if redis.call('HGET', names, before) == id then redis.call('HDEL', names, before) end
    redis.call('HDEL', changes, before)
  end
  if name ~= '' then
    redis.call('HSET', names, name, id)
    redis.call('HDEL', changes, name)
  end
  return 1
elseif step == 'release' then
  for i = 3, #ARGV do
    if reserved(ARGV[i]) then redis.call('HDEL', changes, ARGV[i]) end
  end
  return 1
elseif step == 'look' then
  local text = redis.call('HGET', changes, ARGV[2])
  local dead = 0
  if text then
    local _, until_ms = parse_change(text)
    dead = now >= until_ms + 0 and 1 or 0
  end
  return { redis.call('HGET', names, ARGV[2]) or '', text or '', dead }
elseif step == 'dead' then
  local found = redis.call('HGETALL', changes)
  local dead = {}
  for i = 1, #found, 2 do
    local _, until_ms = parse_change(found[i + 1])
    if now >= until_ms + 0 then
      dead[#dead + 1] = found[i]
      dead[#dead + 1] = found[i + 1]
    end
  end
  return dead
elseif step == 'repair' then
  local _, _, id = parse_change(ARGV[3])
  if redis.call('HGET', changes, ARGV[2]) ~= ARGV[3] then return 0 end
  if ARGV[4] ~= '' then redis.call('HSET', names, ARGV[2], ARGV[4])
  elseif redis.call('HGET', names, ARGV[2]) == id then redis.call('HDEL', names, ARGV[2]) end
  redis.call('HDEL', changes, ARGV[2])
  return 1
end
-- heal
if redis.call('HEXISTS', changes, ARGV[2]) == 1 or (redis.call('HGET', names, ARGV[2]) or '') ~= ARGV[3] then return 0 end
redis.call('HSET', names, ARGV[2], ARGV[4])
return 1
