-- team_create_v1: creates a team and grants its first credits.
--
-- KEYS 1 team  2 state  3 journal  4 idempotency key of the first credits
-- ARGV 1 the latest time at which this may run, by the server's clock in ms; "" for any time
--      2 first credits, nano-USD  3 id of their movement  4 note
--      5 lifetime of the idempotency key, ms  6 lifetime of journal entries, ms
--      7... field, value of the team
-- Returns 1 if created | 0 if the team exists | -5 if the call came too late
--@include common
--@include fields
--@include credit
local team, state, journal, idempotency = unpack(KEYS)
local now = server_ms()
if redis.call('EXISTS', team) == 1 then return 0 end
if is_late(ARGV[1], now) then return -5 end
redis.call('HSET', team, 'version', 1, 'created_ms', now, 'updated_ms', now)
put_fields(team, 7)
if ARGV[2] ~= '0' then post_credit(state, journal, idempotency, 'grant', ARGV[2], ARGV[3], ARGV[4], '', now, ARGV[5], ARGV[6]) end
return 1
