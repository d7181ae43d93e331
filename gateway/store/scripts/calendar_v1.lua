-- calendar_v1: stores the times at which a team's periods begin, unless its time zone or anchor has changed.
--
-- KEYS 1 team
-- ARGV 1 time zone, or ""  2 anchor, or ""  3 the times (accounts/periods.py)
-- Returns 1 | 0 if the time zone or the anchor has changed
local found = redis.call('HMGET', KEYS[1], 'status', 'timezone', 'anchor')
if not found[1] or (found[2] or '') ~= ARGV[1] or (found[3] or '') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], 'calendar', ARGV[3])
return 1
