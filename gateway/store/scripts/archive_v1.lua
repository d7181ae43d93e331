-- archive_v1: removes the oldest entries of a journal, and adds their sums to the archived sums.
--
-- KEYS 1 journal  2 archived
-- ARGV 1 id of the oldest entry  2 id of the last entry to remove  3 id of the first entry to leave
--      4 balance after the last removed entry  5... field of the archived sums, amount to add
-- Returns the number of removed entries, or 0 if the journal no longer begins with that entry.
local oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
if not oldest or oldest[1] ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[2], 'through', ARGV[2], 'balance', ARGV[4])
for i = 5, #ARGV, 2 do redis.call('HINCRBY', KEYS[2], ARGV[i], ARGV[i + 1]) end
return redis.call('XTRIM', KEYS[1], 'MINID', '=', ARGV[3])
