-- calendar_v1: stores the edges of a team's periods, if they are those of its present time zone and anchor.
--
-- KEYS 1 team
-- ARGV 1 time zone, or ""  2 anchor, or ""  3 the edges (accounts/periods.py)
-- Returns 1 | 0 they are not
local found = redis.call('HMGET', KEYS[1], 'status', 'timezone', 'anchor')
if not found[1] or (found[2] or '') ~= ARGV[1] or (found[3] or '') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], 'calendar', ARGV[3])
return 1
