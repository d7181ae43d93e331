-- background_put_v1: queues a response that runs in the background, under a lease.
--
-- KEYS 1 contents  2 entries  3 use  4 items  5 jobs  6 events  7 temporary
-- ARGV 1 id  2 the parent's id or ""  3 packed response  4 token of its worker  5 lease in ms
--      6 how many of the team may run and wait  7 "kept": it is stored | "temporary": only while it runs and shortly after
--      8 lifetime in ms  9 maximum bytes of the team  10 maximum time for which it may wait and run, in ms
--      11 the number of its last event so far, plus one  12 its packed first events
-- Returns 1 if queued; 0 if its id is taken; -1 if its parent does not exist; -2 if too many of the team run and wait
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
--@include response_entries
--@include response_put
--@include background_jobs
local id, parent, jobs, max_ms = ARGV[1], ARGV[2], KEYS[5], tonumber(ARGV[10])
local waiting = 0
for _, name in ipairs(redis.call('HKEYS', jobs)) do
  if name ~= '#' and name ~= '@' then waiting = waiting + 1 end
end
if waiting >= tonumber(ARGV[6]) then return -2 end
if ARGV[7] == 'kept' then
  local done = put(now, id, parent, ARGV[3], 'r', false, '', '', tonumber(ARGV[8]), tonumber(ARGV[9]))
  if done ~= 1 then return done end
elseif not redis.call('SET', KEYS[7], ARGV[3], 'NX', 'PX', max_ms) then
  return 0
end
local order = redis.call('HINCRBY', jobs, '#', 1)
write_job(jobs, id, { token = ARGV[4], state = 'queued', ends = now + tonumber(ARGV[5]), order = order })
if redis.call('HSETNX', jobs, '@', now) == 0 and waiting == 0 then redis.call('HSET', jobs, '@', now) end
redis.call('PEXPIRE', jobs, max_ms)
redis.call('XADD', KEYS[6], ARGV[11] .. '-0', 'e', ARGV[12])
redis.call('PEXPIRE', KEYS[6], max_ms)
return 1
