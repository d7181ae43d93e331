-- For the scripts that enforce, show or count limits: overrides, which hold for a while instead of limits. Included inside
-- of a block, after common.lua.
--
-- In the rules of a scope (meters.lua), "overrides" has those of plain limits: [[place in its limits, value or false for no
-- limit, until when in ms], ...]. From that time on, by the server's clock, the limit itself holds again. A bucket is then
-- at most full, so that a team that used a higher rate is not refused for longer than a minute.

local OVERRIDE_PLACE, OVERRIDE_VALUE, OVERRIDE_UNTIL = 1, 2, 3 -- places of an override's values
-- The end of an override that holds now, as far as scripts need it: when that is, in ms, and the limit from then on.
local OVERRIDDEN_UNTIL, LIMIT_AFTER = 1, 2

-- Brings a bucket beyond the end of an override of its limit, if it was last used before that end.
local function pass_override_end(bucket, level, value, until_ms, limit)
  if bucket[level + 1] > until_ms then return end
  drain(bucket, level, value, until_ms)
  bucket[level] = limit and min(bucket[level], limit * MINUTE_MS) or 0
end

-- Replaces limits by the overrides that hold now. `limits.overridden` becomes a table:
-- place -> the end of its override.
local function override(scope, limits, overrides, now)
  for _, item in ipairs(overrides or {}) do
    local place, value, until_ms = unpack(item)
    if now < until_ms then
      limits.overridden = limits.overridden or {}
      limits.overridden[place] = { until_ms, limits[place] }
      limits[place] = value
    elseif place <= TPM then
      pass_override_end(scope, place == RPM and REQUEST_LEVEL or TOKEN_LEVEL, value, until_ms, limits[place])
    end
  end
end
