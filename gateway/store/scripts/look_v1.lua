-- look_v1: checks whether a key is valid and which upstream made a response, for requests that must know before admission.
--
-- It only reads.
-- KEYS 1 team  2 key  [3 response]
-- ARGV 1 SHA-256 of the secret
-- Returns {1 valid | 0 unknown, disabled or expired (admit_v2's rule), the entry of the response or ""}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function over(expires_ms) return (tonumber(expires_ms or '0') or 0) ~= 0 and now >= tonumber(expires_ms) end

local key = redis.call('HMGET', KEYS[2], 'status', 'expires_ms', 's:' .. ARGV[1])
local team = redis.call('HMGET', KEYS[1], 'status', 'expires_ms')
if not key[3] or over(key[3]) or key[1] ~= 'active' or over(key[2]) or team[1] ~= 'active' or over(team[2]) then
  return { 0, '' }
end
return { 1, KEYS[3] and redis.call('GET', KEYS[3]) or '' }
