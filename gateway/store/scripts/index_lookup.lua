-- Searches in the index (index.lua).

-- Returns the times of the entries that may have this fingerprint, the newest last.
local function times_in(index, fingerprint)
  local place, rest = tonumber(string.sub(fingerprint, 1, 6), 16), struct.pack('>I4', tonumber(string.sub(fingerprint, 7), 16))
  local fields, times = {}, {}
  for depth = 0, MAX_DEPTH do fields[depth + 1] = shard_of(place, depth) end
  for _, shard in ipairs(redis.call('HMGET', index, unpack(fields))) do
    local at = shard and string.find(shard, rest, 1, true)
    while at do
      if at % RECORD_BYTES == 1 then times[#times + 1] = (struct.unpack('>I6', shard, at + 4)) end
      at = string.find(shard, rest, at + 1, true)
    end
  end
  table.sort(times)
  return times
end

-- Returns the newest entry whose value at a place is this packed id, as {id, packed entry, its values}. Returns {} if
-- the journal has been trimmed and no longer has the entry. Returns nil if there is no entry.
local ENTRY_ID, PACKED_ENTRY, VALUES = 1, 2, 3
local function find_entry(index, journal, fingerprint, id, place)
  local times = times_in(index, fingerprint)
  for at = #times, 1, -1 do
    local time = string.format('%d', times[at])
    local found = redis.call('XRANGE', journal, time, time)
    for number = #found, 1, -1 do
      local entry_id, fields = unpack(found[number])
      if fields[1] == 'e' then
        local values = { cmsgpack.unpack(fields[2]) }
        if values[place] == id then return { entry_id, fields[2], values } end
      end
    end
    local oldest = redis.call('XRANGE', journal, '-', '+', 'COUNT', 1)[1]
    if not oldest or string.match(oldest[1], '^%d+') + 0 >= times[at] then return {} end
  end
end

-- Returns the text that a number stands for (entry.lua), or a text itself.
local function text_of(words, word)
  if type(word) == 'string' then return word end
  return redis.call('HGET', words, '=' .. string.format('%d', word)) or ''
end
