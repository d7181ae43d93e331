-- mark_free_v1: a request that was about to follow a summary will not run: its Idempotency-Key is free again.
--
-- KEYS 1 the client's idempotency key
-- ARGV 1 id of the request
-- Returns 1 if it was freed, or 0 if something else is kept there
--@include idempotency
local id, progress = read_idempotency_key(KEYS[1])
if id ~= ARGV[1] or progress ~= 'waits' then return 0 end
redis.call('DEL', KEYS[1])
return 1
