-- response_use_v1: renews the lifetime of a slice of a chain. The caller begins with the slice that contains the root.
--
-- KEYS 1 contents  2 entries  3 use  4 items
-- ARGV 1 lifetime in ms  2 time of the use, which the call for the first slice returned, or ""  3 ms to add to the present
--      time, in the first call  4 number of turns between the first of these and the used turn  5... ids, towards the root
-- Returns the time of the use, for the next calls
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
