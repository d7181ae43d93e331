-- renew_v1: the holds of running requests live on.
--
-- KEYS 1 holds
-- ARGV 1 life, ms  2... hold ids
-- Returns how many of them still exist; one that has expired is not brought back.
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
