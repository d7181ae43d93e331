-- key_create_v1: creates a key of a team and adds it to the team's list.
--
-- KEYS 1 key  2 keys: the team's keys by creation  3 team
-- ARGV 1 key id  2 "1": only in an active team  3... field, value of the key
-- Returns 1 if created | 0 if the key exists | -1 if the team does not exist or was deleted | -2 if the team is disabled
--@include common
--@include fields
local key, keys, team = unpack(KEYS)
local status = redis.call('HGET', team, 'status')
if not status or status == 'archived' then return -1 end
if ARGV[2] == '1' and status ~= 'active' then return -2 end
if redis.call('EXISTS', key) == 1 then return 0 end
local now = server_ms()
redis.call('HSET', key, 'version', 1, 'created_ms', now, 'updated_ms', now)
put_fields(key, 3)
redis.call('ZADD', keys, now, ARGV[1])
return 1
