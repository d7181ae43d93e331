-- response_put_v2: stores a response, or reserves its id while it runs.
--
-- KEYS 1 contents  2 entries  3 use  4 items
-- ARGV 1 id  2 the parent's id or ""  3 packed response  4 "r" running | "s" ended
--      5 "new" | "known" (its id was reserved before)  6 lifetime in ms  7 maximum bytes of the team
--      8 the ids of its output items, separated by commas
--      9 the latest time at which this may run, by the server's clock in ms; "" for any time
-- Returns 1 if stored; 0 if its id is taken (new) or it was deleted meanwhile (known); -1 if its parent does not exist;
--         -2 if the call came too late: it waited in the socket of a store that hung, and the client has got an error
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
--@include response_entries
--@include response_put
if ARGV[9] ~= '' and now > tonumber(ARGV[9]) then return -2 end
local ttl_ms, max_bytes = tonumber(ARGV[6]), tonumber(ARGV[7])
return put(now, ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5] == 'known', ARGV[8], '', ttl_ms, max_bytes)
