-- renew_v1: extends the holds of running requests.
--
-- KEYS 1 holds
-- ARGV 1 lifetime, ms  2... hold ids
-- Returns how many of them still exist. A hold that has expired is not restored.
--@include common
local expiry = server_ms() + tonumber(ARGV[1])
local renewed = 0
for i = 2, #ARGV do
  if redis.call('ZSCORE', KEYS[1], ARGV[i]) then
    redis.call('ZADD', KEYS[1], 'XX', 'GT', expiry, ARGV[i])
    renewed = renewed + 1
  end
end
return renewed
