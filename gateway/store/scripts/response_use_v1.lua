-- response_use_v1: renews the lifetime of a slice of a chain. The slices come from the root on.
--
-- KEYS 1 contents  2 entries  3 use  4 items
-- ARGV 1 lifetime in ms  2 the time of the use, as the first slice has returned it, or ""  3 how many ms it is ahead
--      4 how many turns are between the first of these and the turn that is used  5... ids, towards the root
-- Returns the time of the use, for the next slices
--@include response_entries
local now = tonumber(ARGV[2])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[3])
end
local ids = {}
for at = 5, #ARGV do ids[#ids + 1] = ARGV[at] end
use(ids, now, tonumber(ARGV[4]))
renew(tonumber(ARGV[1]))
return now
