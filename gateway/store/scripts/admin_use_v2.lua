-- admin_use_v2: reads an admin key for a caller that presents one of its secrets, and records the time of the use.
--
-- KEYS 1 admin key
-- ARGV 1 SHA-256 of the secret  2 age in ms from which the recorded time is replaced
-- Returns {now_ms, field, value, ...}; only now_ms if the key does not exist, or the secret is not valid.
--
-- admin_rotate_v1 describes the fields of the secrets.
--@include common
local now = server_ms()
local stored = redis.call('HMGET', KEYS[1], 'secret', 's:' .. ARGV[1], 'used_ms', 'expires_ms')
local ends_ms = tonumber(stored[2] or '0')
if stored[1] ~= ARGV[1] and now >= ends_ms then return { now } end
local expires_ms = tonumber(stored[4] or '0')
if (expires_ms == 0 or now < expires_ms) and now - tonumber(stored[3] or '0') >= ARGV[2] + 0 then
  redis.call('HSET', KEYS[1], 'used_ms', now)
end
local reply = redis.call('HGETALL', KEYS[1])
table.insert(reply, 1, now)
return reply
