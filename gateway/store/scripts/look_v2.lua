-- look_v2: checks whether a key is valid and which upstream made a response, for requests that must know before admission.
--
-- It only reads.
-- KEYS 1 team  2 key  [3 response]
-- ARGV 1 SHA-256 of the secret  2 names that stand for the operation, one per line; "" asks for none
-- Returns {1, the entry of the response or ""}, or {0, why the key is not valid, since when in ms} (key_status.lua), or
--         {-1 the key, or -2 the team, may not use the operation, ""}
--@include key_status
--@include permitted
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local key = redis.call('HMGET', KEYS[2], 'status', 'expires_ms', 's:' .. ARGV[1], 'e:' .. ARGV[1], 'operations')
local team = redis.call('HMGET', KEYS[1], 'status', 'expires_ms', 'operations')
local invalid, since_ms = why_invalid(now, key[3], key[4], key[1], key[2], team[1], team[2])
if invalid then return { 0, invalid, since_ms } end
if not permitted(key[5], ARGV[2]) then return { -1, '' } end
if not permitted(team[3], ARGV[2]) then return { -2, '' } end
return { 1, KEYS[3] and redis.call('GET', KEYS[3]) or '' }
