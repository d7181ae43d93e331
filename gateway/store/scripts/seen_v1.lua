-- seen_v1: adds a worker's counts of outcomes to the team's roll-ups of the hour and the day. If a secret is given (for
-- refused requests), it must belong to the key, so that requests of strangers write nothing.
--
-- KEYS 1 roll-up of the hour  2 roll-up of the day  [3 key]
-- ARGV 1 lifetime of the roll-ups, ms  2 maximum number of fields of each  3 SHA-256 of the secret
--      4... field ("<outcome>|<model>"), count
-- Returns 1, or 0 if the key does not have the secret. New models of a full roll-up count as "other models".
if KEYS[3] and redis.call('HEXISTS', KEYS[3], 's:' .. ARGV[3]) == 0 then return 0 end
local max_fields = tonumber(ARGV[2])
for at = 1, 2 do
  local rollup = KEYS[at]
  local full = redis.call('HLEN', rollup) + (#ARGV - 3) / 2 > max_fields
  for i = 4, #ARGV, 2 do
    local field = ARGV[i]
    if full and redis.call('HEXISTS', rollup, field) == 0 then field = string.match(field, '^[^|]*|') .. 'other models' end
    redis.call('HINCRBY', rollup, field, ARGV[i + 1])
  end
  if redis.call('PTTL', rollup) < 0 then redis.call('PEXPIRE', rollup, ARGV[1]) end
end
return 1
