-- background_end_v2: ends a background response. A response that has ended never changes.
--
-- KEYS 1 contents  2 entries  3 use  4 items  5 jobs  6 events  7 temporary
--      [8 conversation  9 use of the team's conversations  10 their sizes]
-- ARGV 1 id  2 who ends it:
--        "worker"  its worker, whose lease must be valid   "lost"    any worker, once the lease has lapsed
--        "client"  a client that cancels it                "unborn"  its worker, which refuses it before it runs
--      3 token  4 packed response  5 its packed events  6 "kept": it is stored | "temporary"  7 lifetime in ms
--      8 maximum bytes of the team  9 the ids of its output items, separated by commas  10 lifetime if temporary, in ms
--      11 the number of its last event, plus one  12 maximum bytes of the conversation  13 the lock's name or ""
--      14 the conversation's id or ""  15... packed items for the conversation
-- Returns 1 if ended; 2 if ended, but it was deleted before; 3 if ended, but the conversation cannot take its items;
--         0 if another worker or client has ended it; -1 if the lease has lapsed ("worker") or has not ("lost")
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
--@include response_entries
--@include response_put
--@include background_jobs
--@include conversation_append
local id, who, content, events, ttl_ms = ARGV[1], ARGV[2], ARGV[4], ARGV[5], tonumber(ARGV[7])
local job = read_job(KEYS[5], id)
if not job then return 0 end
if who == 'worker' or who == 'unborn' then
  if job.token ~= ARGV[3] then return 0 end
  if who == 'worker' and job.ends < now then return -1 end
elseif who == 'lost' and job.ends >= now then
  return -1
end
redis.call('HDEL', KEYS[5], id)
local answer = 1
if who == 'unborn' then
  redis.call('DEL', KEYS[6], KEYS[7])
  if ARGV[6] == 'kept' then remove(id) end
  return 1
elseif ARGV[6] == 'kept' then
  if put(now, id, '', content, 's', true, ARGV[9], events, ttl_ms, tonumber(ARGV[8])) ~= 1 then answer = 2 end
  redis.call('DEL', KEYS[6])
elseif redis.call('EXISTS', KEYS[7]) == 1 then
  redis.call('SET', KEYS[7], content, 'PX', ARGV[10])
  redis.call('DEL', KEYS[6])
  if events ~= '' then
    redis.call('XADD', KEYS[6], ARGV[11] .. '-0', 'e', events)
    redis.call('PEXPIRE', KEYS[6], ARGV[10])
  end
else
  redis.call('DEL', KEYS[6])
  answer = 2
end
if KEYS[8] and #ARGV > 14 and answer == 1 and redis.call('EXISTS', KEYS[8]) == 1 then
  if append(KEYS[8], KEYS[10], tonumber(ARGV[12]), tonumber(ARGV[8]), ARGV[13], 15, #ARGV) < 1 then return 3 end
  note_conversation(KEYS[8], KEYS[9], KEYS[10], ARGV[14], now, ttl_ms)
end
return answer
