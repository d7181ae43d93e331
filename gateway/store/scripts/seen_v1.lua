-- seen_v1: adds a worker's counts of outcomes to the team's roll-ups of the hour and the day. If a secret is given (for
-- refused requests), it must belong to the key, so that strangers write nothing.
--
-- KEYS 1 roll-up of the hour  2 roll-up of the day  [3 key]
-- ARGV 1 their lifetime, ms  2 the most fields of each  3 SHA-256 of the secret  4... field ("<what>|<model>"), count
-- Returns 1, or 0 for a secret that the key does not have. Models beyond the most fields count as "other models".
if KEYS[3] and redis.call('HEXISTS', KEYS[3], 's:' .. ARGV[3]) == 0 then return 0 end
local most = tonumber(ARGV[2])
for at = 1, 2 do
  local seen = KEYS[at]
  local full = redis.call('HLEN', seen) + (#ARGV - 3) / 2 > most
  for i = 4, #ARGV, 2 do
    local field = ARGV[i]
    if full and redis.call('HEXISTS', seen, field) == 0 then field = string.match(field, '^[^|]*|') .. 'other models' end
    redis.call('HINCRBY', seen, field, ARGV[i + 1])
  end
  if redis.call('PTTL', seen) < 0 then redis.call('PEXPIRE', seen, ARGV[1]) end
end
return 1
