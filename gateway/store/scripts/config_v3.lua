-- config_v3: changes the hash of a team or a key, all fields at once.
--
-- KEYS 1 hash
-- ARGV 1 version that the caller saw, or "" for any  2 name that the caller saw, or "" for any
--      3 the latest time at which this may run, by the server's clock in ms; "" for any time
--      4... field, value; an empty value removes the field
-- Returns {1 done | -1 does not exist | -2 another version | -3 archived (deleted), or permanently revoked | -4 another name
--   | -5 too late, version now}
--@include common
--@include fields
local hash, now = KEYS[1], server_ms()
local seen = redis.call('HMGET', hash, 'version', 'status', 'name')
local version, status = tonumber(seen[1] or false), seen[2]
if not version then return { -1, 0 } end
if is_late(ARGV[3], now) then return { -5, version } end
if status == 'archived' then return { -3, version } end
if status == 'revoked' then
  for i = 4, #ARGV, 2 do
    if ARGV[i] == 'status' and ARGV[i + 1] ~= 'revoked' and ARGV[i + 1] ~= 'archived' then return { -3, version } end
  end
end
if ARGV[1] ~= '' and tonumber(ARGV[1]) ~= version then return { -2, version } end
if ARGV[2] ~= '' and ARGV[2] ~= (seen[3] or '') then return { -4, version } end
redis.call('HSET', hash, 'version', version + 1, 'updated_ms', now)
put_fields(hash, 4)
return { 1, version + 1 }
