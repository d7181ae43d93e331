-- reclaim_v2: voids the holds of a worker that has died.
--
-- KEYS 1 state  2 holds  3 held  4 journal  5 end users
-- ARGV 1 prefix of the ids of its holds
-- Returns the number of voided holds.
--
--@include common
--@include resolving
--@include void
local state, holds, held, journal, end_users = unpack(KEYS)
local now, voided = server_ms(), 0
for _, id in ipairs(redis.call('HKEYS', held)) do
  if string.sub(id, 1, #ARGV[1]) == ARGV[1] then
    void_hold(state, holds, held, journal, end_users, now, id)
    voided = voided + 1
  end
end
return voided
