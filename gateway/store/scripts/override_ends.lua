-- For admission: how long a request waits if a limit changes before the request would fit. Included inside of a block,
-- after meters.lua.

-- `wait`: the time that the present limit says, -1 for never. `over`: until when that limit holds, and the limit after it;
-- nil if the limit does not change. `meter`: the count, in the form of meters (for plain limits, too).
local function wait_beyond(wait, over, meter, limit, usd, units, period)
  if not over or wait >= 0 and now + wait < over[1] then return wait end
  local left, after = over[1] - now, 0
  if over[2] then
    local kind, at_end, before = meter[1], { unpack(meter) }, now
    if kind < OF_SLOTS then at_end[2] = min(max(0, meter[2] - left * limit), over[2] * MINUTE_MS)
    elseif kind >= OF_LAST_USD then move_slots(at_end, floor(over[1] / meter[2]))
    elseif kind > OF_SLOTS and over[1] >= meter[4] then at_end[2] = 0 end
    now = over[1]
    after = select(2, wait_for({ { [6] = period }, at_end, nil, over[2] }, usd, units))
    now = before
  end
  return after < 0 and -1 or left + after
end
