-- reclaim_v1: gives back what a worker held that is known to be dead.
--
-- KEYS 1 state  2 holds  3 held  4 journal
-- ARGV 1 how the ids of its holds begin
-- Returns how many were voided.
--@include common
--@include void
local state, holds, held, journal = unpack(KEYS)
local now, voided = server_ms(), 0
for _, id in ipairs(redis.call('HKEYS', held)) do
  if string.sub(id, 1, #ARGV[1]) == ARGV[1] then
    void_hold(state, holds, held, journal, now, id)
    voided = voided + 1
  end
end
return voided
