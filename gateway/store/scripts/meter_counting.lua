-- For the scripts that count in meters. A meter counts for one limit beyond the plain ones. Included after common.lua.
--
-- The meters of a scope are one MessagePack map in the team's state: the field "meter_window" for the team, "<key
-- id>:meter_window" for a key. It maps the id of a rule (meters.lua) to an array that begins with the meter's kind:
--   OF_REQUESTS      level of a bucket, its time
--   OF_TOKENS        the same, limit or 0[, the time until which that holds, the limit after it or 0]
--   OF_SLOTS         how many requests run
--   OF_USD OF_UNITS  used amount in nano-USD or tokens, beginning and end of the period
--   OF_LAST_USD ...  width of a slot in ms, number of the newest slot, amount used in that slot, in the one before, ...
--                    (25 slots)
-- A budget of the last hours or days is counted in slots of a 24th of that time. The oldest of the 25 slots counts
-- completely, so that no span of that length exceeds the budget, wherever it begins.
-- A hold names the meters that counted its request, separated by commas: "t<id>" of the team, "k<id>" of the key.

local OF_REQUESTS, OF_TOKENS, OF_SLOTS, OF_USD, OF_UNITS, OF_LAST_USD, OF_LAST_UNITS = 1, 2, 3, 4, 5, 6, 7
local NEWEST, OLDEST, SLOTS = 4, 28, 25 -- places of the slots, and how many there are

-- Makes `slot` the newest slot.
local function move_slots(meter, slot)
  local passed = slot - meter[3]
  if passed <= 0 then return end
  for at = OLDEST, NEWEST, -1 do meter[at] = at - passed >= NEWEST and meter[at - passed] or 0 end
  meter[3] = slot
end

-- Adds the amounts that a request admitted at `at_ms` uses, or returns if they are negative. If the meter's period had
-- ended by then, a new one begins, because a meter does not know the periods after its own.
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
