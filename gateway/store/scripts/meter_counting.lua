-- For the scripts that count in meters: what limits beyond the plain ones have counted. Behind common.lua.
--
-- The meters of a scope are one MessagePack map in the team's state: the field "meter_window" for the team, "<key id>:meter_window"
-- for a key. It maps the id of a rule (meters.lua) to an array that begins with the meter's kind:
--   OF_REQUESTS      level of a bucket, its time
--   OF_TOKENS        the same, limit
--   OF_SLOTS         how many run
--   OF_USD OF_UNITS  used, since when, until when; in nano-USD or tokens
--   OF_LAST_USD ...  width of a slot in ms, number of the newest slot, used in that slot, in the one before, ... (25 slots)
-- A budget of the last hours or days is kept in slots of a 24th of that time. The oldest of the 25 slots is counted whole, so
-- that no span of that length exceeds the budget, wherever it begins.
-- A hold names the meters that counted its request: "t<id>" of the team, "k<id>" of the key, with commas between them.

local OF_REQUESTS, OF_TOKENS, OF_SLOTS, OF_USD, OF_UNITS, OF_LAST_USD, OF_LAST_UNITS = 1, 2, 3, 4, 5, 6, 7
local NEWEST, OLDEST, SLOTS = 4, 28, 25 -- places of the slots, and how many there are

-- Moves on to a newer slot.
local function move_slots(meter, slot)
  local passed = slot - meter[3]
  if passed <= 0 then return end
  for at = OLDEST, NEWEST, -1 do meter[at] = at - passed >= NEWEST and meter[at - passed] or 0 end
  meter[3] = slot
end

-- Adds what a request admitted at a time has used, or gives back, to its slots and budgets. A period that had ended by then
-- is not known any more, so the next one begins.
local function count_in_meter(meter, at_ms, usd, units, slots)
  local kind = meter[1]
  local more = (kind == OF_USD or kind == OF_LAST_USD) and usd or units
  if kind == OF_SLOTS then meter[2] = max(0, meter[2] + slots)
  elseif kind == OF_USD or kind == OF_UNITS then
    if at_ms >= meter[4] then meter[2], meter[3] = 0, at_ms end
    if at_ms >= meter[3] then meter[2] = max(0, meter[2] + more) end
  elseif kind >= OF_LAST_USD then
    local slot = floor(at_ms / meter[2])
    move_slots(meter, slot)
    local at = NEWEST + meter[3] - slot
    if at <= OLDEST then meter[at] = max(0, meter[at] + more) end
  end
end

-- Reads the meters of team and key.
local function read_meters(state, key_id)
  local packed = redis.call('HMGET', state, 'meter_window', key_id .. ':meter_window')
  return { t = packed[1] and cmsgpack.unpack(packed[1]), k = packed[2] and cmsgpack.unpack(packed[2]) }
end
