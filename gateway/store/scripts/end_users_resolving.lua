-- For the scripts that end or restore holds: what they have counted for an end user. Inside of a block, behind meter_counting.lua.
--@include end_users

-- Writes down the entries whose meters count a hold. `runs`: by how many more of its requests run.
local function save_counted(hold, counted, entries, kept_ms, now, runs)
  for scope, entry in pairs(entries) do
    if string.find(',' .. counted, ',' .. scope, 1, true) then
      entry[1], entry[2] = max(entry[1], now), max(0, entry[2] + runs)
      for _, meter in pairs(entry[3]) do
        -- Tokens that were added drain from now on, at the lower of two limits where one of them is overridden.
        if type(meter) == 'table' and meter[1] == OF_TOKENS then
          local limits = { meter[4], meter[6] or 0 }
          table.sort(limits)
          entry[1] = max(entry[1], counts_until(meter, limits[1] > 0 and limits[1] or limits[2], now))
        end
      end
    else entries[scope] = nil end
  end
  save_entries(hold.end_users, hold.key_id, hold.end_user, entries, kept_ms, now)
end
