-- end_user_books_v1: compares what runs for end users, by their entries (end_users.lua) and by the holds, in one step.
--
-- KEYS 1 held  2 end users
-- ARGV the fields of entries: "<end user>" or "<key id>:<end user>"
-- Returns {name, how many run by the holds, by the entry, ...} of each count that differs: a field for all of its requests,
--   "<field> <rule's id>" for a limit of concurrency
--@reads
local METER_KIND, METER_USED = 1, 2
local KIND_RUNNING = 3
local running, wanted = {}, {} -- name -> how many holds count
for _, field in ipairs(ARGV) do wanted[field] = true end
local held = redis.call('HGETALL', KEYS[1])
for at = 2, #held, 2 do
  local key_id, counted, user = string.match(held[at], '^%d+ %d+ %d+ (%w+) %d ([%w_.,]*),u(%w+)$')
  local seen = {}
  for scope, id in string.gmatch(counted and ',' .. counted or '', ',([ef])([^,]+)') do
    local field = scope == 'e' and user or key_id .. ':' .. user
    if wanted[field] then
      if not seen[field] then running[field] = (running[field] or 0) + 1 end
      seen[field] = true
      running[field .. ' ' .. id] = (running[field .. ' ' .. id] or 0) + 1
    end
  end
end
local found = {}
local function compare(name, count)
  local real = running[name] or 0
  if real ~= count then found[#found + 1], found[#found + 2], found[#found + 3] = name, real, count end
end
for at, packed in ipairs(#ARGV > 0 and redis.call('HMGET', KEYS[2], unpack(ARGV)) or {}) do
  local field = ARGV[at]
  local whole, _, count, meters = pcall(cmsgpack.unpack, packed or '\0\0\128')
  compare(field, whole and count or -1)
  for id, meter in pairs(whole and meters or {}) do
    if type(meter) == 'table' and meter[METER_KIND] == KIND_RUNNING then compare(field .. ' ' .. id, meter[METER_USED]) end
  end
end
return found
