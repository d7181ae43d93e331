-- admin_create_v2: stores an admin key.
--
-- KEYS 1 admin key
-- ARGV 1 the latest time at which this may run, by the server's clock in ms; "" for any time
--      2 the time at which the key is deleted, in ms; "" for never  3... field, value
-- Returns 1 if created | 0 if the key exists | -5 if the call came too late
--@include common
--@include fields
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
if is_late(ARGV[1], server_ms()) then return -5 end
put_fields(KEYS[1], 3)
if ARGV[2] ~= '' then redis.call('PEXPIREAT', KEYS[1], ARGV[2]) end
return 1
