-- background_round_v1: renews the leases of a worker's background responses, and starts those that may run.
--
-- KEYS 1 jobs
-- ARGV 1 lease in ms  2 how many of the team may run at once  3 maximum time for which one may wait and run, in ms
--      4... pairs: id, token
-- Returns {for each pair: 0 gone | 1 waits | 2 starts now | 3 runs, the ids whose leases have lapsed, how many are left}
--
-- If the last round of any worker is longer ago than half a lease, the store stopped or all workers of the team's
-- responses have died. Then all leases are renewed, because no worker could renew its own. The rounds that follow
-- detect workers that have died.
--@include background_jobs
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local jobs, lease_ms = KEYS[1], tonumber(ARGV[1])
local last = tonumber(redis.call('HGET', jobs, '@') or now)
local silent = now - last > lease_ms / 2 or now < last

local mine = {}
for at = 4, #ARGV, 2 do mine[ARGV[at]] = ARGV[at + 1] end
local found, running, queued, lapsed, left = {}, 0, {}, {}, 0
for _, id in ipairs(redis.call('HKEYS', jobs)) do
  local job = id ~= '#' and id ~= '@' and read_job(jobs, id)
  if job then
    local own = mine[id] == job.token
    if own or silent then
      job.ends = now + lease_ms
      write_job(jobs, id, job)
    end
    left = left + 1
    if job.ends < now then lapsed[#lapsed + 1] = id
    elseif job.state == 'queued' then queued[#queued + 1] = { id = id, job = job }
    else running = running + 1 end
    if own then found[id] = job.state == 'queued' and 1 or 3 end
  end
end
table.sort(queued, function(one, other) return one.job.order < other.job.order end)
for place, waiting in ipairs(queued) do
  if running + place > tonumber(ARGV[2]) then break end
  if found[waiting.id] then
    waiting.job.state = 'in_progress'
    write_job(jobs, waiting.id, waiting.job)
    found[waiting.id] = 2
  end
end
if left > 0 then
  redis.call('HSET', jobs, '@', now)
  redis.call('PEXPIRE', jobs, ARGV[3])
end
local states = {}
for at = 4, #ARGV, 2 do states[#states + 1] = found[ARGV[at]] or 0 end
return { states, lapsed, left }
