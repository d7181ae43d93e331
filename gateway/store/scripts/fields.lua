-- For the scripts that write the hash of a team or a key.

-- Writes fields and values from ARGV[from] on. An empty value removes a field.
local function put_fields(hash, from)
  for i = from, #ARGV, 2 do
    if ARGV[i + 1] == '' then redis.call('HDEL', hash, ARGV[i])
    else redis.call('HSET', hash, ARGV[i], ARGV[i + 1]) end
  end
end

-- Whether a call came after the latest time at which it may run, or "" for any time.
local function is_late(latest, now) return latest ~= '' and now > latest + 0 end
