-- For admission: how long a request waits if a limit changes before the request would fit. Included inside of a block,
-- after meters.lua.

-- `wait`: the time that the present limit says, -1 for never. `override_end`: when that limit
-- changes (overrides.lua), or nil if it does not. `meter`: the count, in the form of meters (for plain limits, too).
local function wait_past_override(wait, override_end, meter, limit, usd, tokens, period)
  if not override_end or wait >= 0 and now + wait < override_end[OVERRIDDEN_UNTIL] then return wait end
  local left, after = override_end[OVERRIDDEN_UNTIL] - now, 0
  if override_end[LIMIT_AFTER] then
    local kind, at_end, before = meter[METER_KIND], { unpack(meter) }, now
    if kind < KIND_RUNNING then
      at_end[METER_USED] = min(max(0, meter[METER_USED] - left * limit), override_end[LIMIT_AFTER] * MINUTE_MS)
    elseif kind >= KIND_LAST_USD then move_slots(at_end, floor(override_end[OVERRIDDEN_UNTIL] / meter[SLOT_MS]))
    elseif kind > KIND_RUNNING and override_end[OVERRIDDEN_UNTIL] >= meter[PERIOD_END] then at_end[METER_USED] = 0 end
    now = override_end[OVERRIDDEN_UNTIL]
    after = select(2, usage_and_wait({ { [RULE_PERIOD] = period }, at_end, nil, override_end[LIMIT_AFTER] }, usd, tokens))
    now = before
  end
  return after < 0 and -1 or left + after
end
