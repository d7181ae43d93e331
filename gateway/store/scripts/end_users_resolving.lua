-- For the scripts that end or restore holds: what they have counted for an end user. Inside of a block, after
-- meter_counting.lua.
--@include end_users

-- Stores the entries whose meters count a hold. `runs`: how many requests more run than before.
local function save_counted(hold, counted, entries, kept_ms, now, runs)
  for scope, entry in pairs(entries) do
    if string.find(',' .. counted, ',' .. scope, 1, true) then
      entry[COUNTS_UNTIL], entry[RUNNING] = max(entry[COUNTS_UNTIL], now), max(0, entry[RUNNING] + runs)
      for _, meter in pairs(entry[METERS]) do
        -- Tokens that were added drain from now on, at the lower of two limits where one of them is overridden.
        if type(meter) == 'table' and meter[METER_KIND] == KIND_TOKENS then
          local limits = { meter[TOKEN_LIMIT], meter[TOKEN_LIMIT_AFTER] or 0 }
          table.sort(limits)
          entry[COUNTS_UNTIL] = max(entry[COUNTS_UNTIL], counts_until(meter, limits[1] > 0 and limits[1] or limits[2], now))
        end
      end
    else entries[scope] = nil end
  end
  save_entries(hold.end_users, hold.key_id, hold.end_user, entries, kept_ms, now)
end
