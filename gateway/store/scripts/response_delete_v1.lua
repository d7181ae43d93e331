-- response_delete_v1: deletes a response. If other turns continue it, its entry stays, marked as deleted, so that an
-- error can name the response that is missing.
--
-- KEYS 1 contents  2 entries  3 use  4 items
-- ARGV 1 id
-- Returns 1 if deleted; 0 if there is none
--@include response_entries
local entry = read(ARGV[1])
if not entry or entry.kind == 'd' then return 0 end
if entry.children == 0 then
  remove(ARGV[1])
  return 1
end
redis.call('HDEL', KEYS[1], ARGV[1], ARGV[1] .. '|events')
if entry.bytes > 0 then redis.call('HINCRBY', KEYS[2], '*', -entry.bytes) end
forget_items(ARGV[1], entry)
entry.bytes, entry.kind, entry.items = 0, 'd', ''
write(ARGV[1], entry)
return 1
