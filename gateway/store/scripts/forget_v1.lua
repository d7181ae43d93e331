-- forget_v1: removes a field of a hash if it still has the value that was read.
--
-- KEYS 1 hash
-- ARGV 1 field  2 value
-- Returns 1 if it was removed, or 0.
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
return redis.call('HDEL', KEYS[1], ARGV[1])
