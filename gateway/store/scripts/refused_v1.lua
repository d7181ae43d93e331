-- refused_v1: records a refusal for the team's operators, if the presented secret belongs to the key.
--
-- KEYS 1 key  2 refused
-- ARGV 1 SHA-256 of the secret  2 maximum number of entries  3 lifetime of an entry and of the list, ms  4... field, value
-- Returns 1, or 0 if the secret is neither one of the key's nor one of its last ended ones (rotate_v1).
local secret = redis.call('HMGET', KEYS[1], 's:' .. ARGV[1], 'e:' .. ARGV[1])
if not secret[1] and not secret[2] then return 0 end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[2], '*', unpack(ARGV, 4))
-- Older entries are removed now. Those of a team with no further refusal are removed with the list.
redis.call('XTRIM', KEYS[2], 'MINID', string.format('%.0f', redis.call('TIME')[1] * 1000 - ARGV[3]))
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return 1
