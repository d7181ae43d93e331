-- background_events_v1: stores events of a background response, so that clients can resume its stream while it runs.
--
-- KEYS 1 jobs  2 events
-- ARGV 1 id  2 token  3 the number of the last of these events, plus one  4 the packed events  5 lifetime in ms
-- Returns 1 if stored; 0 if its lease has ended
--@include background_jobs
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local job = read_job(KEYS[1], ARGV[1])
if not job or job.token ~= ARGV[2] or job.ends < now then return 0 end
redis.call('XADD', KEYS[2], ARGV[3] .. '-0', 'e', ARGV[4])
redis.call('PEXPIRE', KEYS[2], ARGV[5])
return 1
