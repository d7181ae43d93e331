-- For the scripts that count in meters. A meter counts for one limit beyond the plain ones. Included after common.lua.
--
-- The meters of a scope are one MessagePack map in the team's state: the field "meter_window" for the team, "<key
-- id>:meter_window" for a key. It maps the id of a rule (meters.lua) to an array that begins with the meter's kind:
--   KIND_REQUESTS                 level of a bucket, its time
--   KIND_TOKENS                   the same, limit or 0[, the time until which that holds, the limit after it or 0]
--   KIND_RUNNING                  how many requests run
--   KIND_USD, KIND_BUDGET_TOKENS  used amount in nano-USD or tokens, beginning and end of the period
--   KIND_LAST_USD, KIND_LAST_TOKENS  width of a slot in ms, number of the newest slot, amount used in that slot, in the
--                                 one before, ... (25 slots)
-- A budget of the last hours or days is counted in slots of a 24th of that time. The oldest of the 25 slots counts
-- completely, so that no span of that length exceeds the budget, wherever it begins.
-- A hold names the meters that counted its request, separated by commas: "t<id>" of the team, "k<id>" of the key.

local KIND_REQUESTS, KIND_TOKENS, KIND_RUNNING, KIND_USD, KIND_BUDGET_TOKENS = 1, 2, 3, 4, 5
local KIND_LAST_USD, KIND_LAST_TOKENS = 6, 7
local METER_KIND, METER_USED, PERIOD_BEGIN, PERIOD_END = 1, 2, 3, 4 -- places of a meter's values
local TOKEN_LIMIT, TOKEN_LIMIT_END, TOKEN_LIMIT_AFTER = 4, 5, 6
local SLOT_MS, SLOT_NUMBER = 2, 3
local NEWEST, OLDEST, SLOTS = 4, 28, 25 -- places of the slots, and how many there are

-- Makes `slot` the newest slot.
local function move_slots(meter, slot)
  local passed = slot - meter[SLOT_NUMBER]
  if passed <= 0 then return end
  for at = OLDEST, NEWEST, -1 do meter[at] = at - passed >= NEWEST and meter[at - passed] or 0 end
  meter[SLOT_NUMBER] = slot
end

-- Adds the amounts that a request admitted at `at_ms` uses, or returns if they are negative. If the meter's period had
-- ended by then, a new one begins, because a meter does not know the periods after its own.
local function count_in_meter(meter, at_ms, usd, units, slots)
  local kind = meter[METER_KIND]
  local more = (kind == KIND_USD or kind == KIND_LAST_USD) and usd or units
  if kind == KIND_RUNNING then meter[METER_USED] = max(0, meter[METER_USED] + slots)
  elseif kind == KIND_USD or kind == KIND_BUDGET_TOKENS then
    if at_ms >= meter[PERIOD_END] then meter[METER_USED], meter[PERIOD_BEGIN] = 0, at_ms end
    if at_ms >= meter[PERIOD_BEGIN] then meter[METER_USED] = max(0, meter[METER_USED] + more) end
  elseif kind >= KIND_LAST_USD then
    local slot = floor(at_ms / meter[SLOT_MS])
    move_slots(meter, slot)
    local at = NEWEST + meter[SLOT_NUMBER] - slot
    if at <= OLDEST then meter[at] = max(0, meter[at] + more) end
  end
end

-- Reads the meters of team and key.
local function read_meters(state, key_id)
  local packed = redis.call('HMGET', state, 'meter_window', key_id .. ':meter_window')
  return { t = packed[1] and cmsgpack.unpack(packed[1]), k = packed[2] and cmsgpack.unpack(packed[2]) }
end
