-- For the scripts that enforce, show or count limits: overrides, which hold for a while instead of limits. Included inside
-- of a block, after common.lua.
--
-- In the rules of a scope (meters.lua), "overrides" has those of plain limits: [[place in its limits, value or false for no
-- limit, until when in ms], ...]. From that time on, by the server's clock, the limit itself holds again. A bucket is then
-- at most full, so that a team that used a higher rate is not refused for longer than a minute.

-- Brings a bucket beyond the end of an override of its limit, if it was last used before that end.
local function pass_end(bucket, level, value, until_ms, limit)
  if bucket[level + 1] > until_ms then return end
  drain(bucket, level, value, until_ms)
  bucket[level] = limit and min(bucket[level], limit * MINUTE_MS) or 0
end

-- Replaces limits by the overrides that hold now. `limits.over` becomes a table: place -> { until when, the limit after it }.
local function override(scope, limits, overrides, now)
  for _, one in ipairs(overrides or {}) do
    local place, value, until_ms = unpack(one)
    if now < until_ms then
      limits.over = limits.over or {}
      limits.over[place] = { until_ms, limits[place] }
      limits[place] = value
    elseif place <= TPM then pass_end(scope, place == RPM and RQ or TK, value, until_ms, limits[place]) end
  end
end
