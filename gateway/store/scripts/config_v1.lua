-- config_v1: creates or changes the hash of a team or a key, all fields at once.
--
-- KEYS 1 hash  [2 index: a sorted set by creation]
-- ARGV 1 "create" or "update"  2 version that the caller saw, or "" for any  3 member for the index, or ""
--      4... field, value; an empty value removes the field
-- Returns {1 done | 0 exists already | -1 does not exist | -2 another version | -3 permanently revoked, version now}
--@include common
local hash, index = KEYS[1], KEYS[2]
local version = tonumber(redis.call('HGET', hash, 'version') or false)
if ARGV[1] == 'create' then
  if version then return { 0, version } end
  version = 0
elseif not version then
  return { -1, 0 }
elseif ARGV[2] ~= '' and tonumber(ARGV[2]) ~= version then
  return { -2, version }
end
if redis.call('HGET', hash, 'status') == 'revoked' then
  for i = 4, #ARGV, 2 do
    if ARGV[i] == 'status' and ARGV[i + 1] ~= 'revoked' then return { -3, version } end
  end
end
local now = server_ms()
version = version + 1
redis.call('HSET', hash, 'version', version, 'updated_ms', now)
if ARGV[1] == 'create' then
  redis.call('HSET', hash, 'created_ms', now)
  if index then redis.call('ZADD', index, now, ARGV[3]) end
end
for i = 4, #ARGV, 2 do
  if ARGV[i + 1] == '' then redis.call('HDEL', hash, ARGV[i])
  else redis.call('HSET', hash, ARGV[i], ARGV[i + 1]) end
end
return { 1, version }
