-- What is kept under a client's Idempotency-Key.
--
--   "<id>"           this request runs, as long as its hold lasts
--   "<id> settled"   it was charged
--   "<id> ><next>"   the same for a call that is made before the request `next` and for it: a summary
--   "<next> waits"   that call has ended, and the request is about to be admitted
local WAITS_MS = 60000 -- how long the last of these outlives its worker

-- Returns the id, the text after it, which says how far its request is, and the id of the request that follows. All are
-- nil if nothing is kept.
local function read_idempotency_key(key)
  local id, progress = string.match(redis.call('GET', key) or '', '^(%S+) ?(.*)$')
  return id, progress, string.match(progress or '', '^>(%S+)$')
end
