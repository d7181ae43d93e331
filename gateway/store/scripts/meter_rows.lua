-- For the scripts that show limits beyond the plain ones. Included inside of a block, after meters.lua.

-- Returns the time at which all that a rule permits is left again, or 0.
local function ends_at(meter, reset_ms)
  local kind = meter[METER_KIND]
  if kind < KIND_RUNNING then return reset_ms > 0 and now + reset_ms or 0 end
  if kind == KIND_RUNNING then return 0 end
  if kind < KIND_LAST_USD then return meter[PERIOD_END] == NO_END and 0 or meter[PERIOD_END] end
  for at = NEWEST, OLDEST do
    if meter[at] > 0 then return (meter[SLOT_NUMBER] - at + NEWEST + SLOTS) * meter[SLOT_MS] end
  end
  return 0
end

-- Returns the rules that apply, each as {name, limit, used, left, the server's time in ms at which all is left again, or 0}.
local function applied_rows()
  local rows = {}
  for _, entry in ipairs(applied) do
    local rule, meter, _, limit = unpack(entry)
    if limit then
      local used, left, reset_ms = usage_and_wait(entry, 0, 0), nil, 0
      if meter[METER_KIND] < KIND_RUNNING then left, reset_ms = bucket_left(meter[METER_USED], limit) end
      rows[#rows + 1] = { rule[RULE_NAME], limit, used, left or max(0, limit - used), ends_at(meter, reset_ms) }
    end
  end
  return rows
end
