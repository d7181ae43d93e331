-- books_v4: reads a team's balances, holds and the first and last entry of its journal in one step, for verification.
--
-- KEYS 1 state  2 holds  3 held  4 journal  5 archived
-- Returns {{state field, value...}, {hold id...}, {hold id, hold...}, first entry's id, last entry's id,
--   number of entries, number of entries ever added, the last entry that was deleted by hand (XDEL; 0-0: none),
--   {field, value...} of the archived sums,
--   {key id or "", rule's id, how many run, ...} of the limits of concurrency that have a meter of their own (meters.lua),
--   {expiry, ms, what is left of the credits that expire then, ...} (lots.lua)};
--   ids are "" for an empty journal.
local METER_KIND, METER_USED = 1, 2
local KIND_RUNNING = 3
local function edge(command, from, to)
  local found = redis.call(command, KEYS[4], from, to, 'COUNT', 1)
  return found[1] and found[1][1] or ''
end

local length, added, deleted = 0, 0, '0-0'
if redis.call('EXISTS', KEYS[4]) == 1 then
  local info = redis.call('XINFO', 'STREAM', KEYS[4])
  for i = 1, #info, 2 do
    if info[i] == 'length' then length = info[i + 1] end
    if info[i] == 'entries-added' then added = info[i + 1] end
    if info[i] == 'max-deleted-entry-id' then deleted = info[i + 1] end
  end
end
local state, slots, lots = redis.call('HGETALL', KEYS[1]), {}, {}
for i = 1, #state, 2 do
  if state[i] == 'lot_window' and state[i + 1] ~= '' then lots = cmsgpack.unpack(state[i + 1]) end
  local key_id = string.match(state[i], '^(%w*):?meter_window$')
  if key_id then
    -- Unreadable meters count nothing. Admission cannot read them either, and reports that.
    local whole, meters = pcall(cmsgpack.unpack, state[i + 1])
    for id, meter in pairs(whole and meters or {}) do
      if type(meter) == 'table' and meter[METER_KIND] == KIND_RUNNING then
        slots[#slots + 1], slots[#slots + 2], slots[#slots + 3] = key_id, id, meter[METER_USED]
      end
    end
  end
end
return {
  state, redis.call('ZRANGE', KEYS[2], 0, -1), redis.call('HGETALL', KEYS[3]),
  edge('XRANGE', '-', '+'), edge('XREVRANGE', '+', '-'), length, added, deleted,
  redis.call('HGETALL', KEYS[5]), slots, lots,
}
