-- background_delete_v1: deletes a background response. That cancels a running one, because its worker finds no job.
--
-- KEYS 1 contents  2 entries  3 use  4 items  5 jobs  6 events  7 temporary
-- ARGV 1 id
-- Returns 1 if it was running, or was stored only temporarily; 0 otherwise
--@include response_entries
local id = ARGV[1]
local running = redis.call('HDEL', KEYS[5], id)
local temporary = redis.call('DEL', KEYS[7])
redis.call('DEL', KEYS[6])
return math.max(running, temporary)
