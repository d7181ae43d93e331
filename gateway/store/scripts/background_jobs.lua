-- The background responses of one team that have not ended, for the background_* scripts. `jobs` is a hash:
--
-- id    "token state until order": the token of its worker, "queued" | "in_progress", the end of its lease in ms, its place
--       in the queue
-- "#"   the last place in the queue that was given
-- "@"   the time of the last round in ms
local function read_job(jobs, id)
  local text = redis.call('HGET', jobs, id)
  if not text then return nil end
  local token, state, ends, order = string.match(text, '^(%S+) (%S+) (%d+) (%d+)$')
  return { token = token, state = state, ends = tonumber(ends), order = tonumber(order) }
end

local function write_job(jobs, id, job)
  redis.call('HSET', jobs, id, string.format('%s %s %d %d', job.token, job.state, job.ends, job.order))
end
