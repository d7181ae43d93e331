-- background_teams_v1: which teams have background responses whose workers may have died.
--
-- KEYS 1 teams: each by the time in ms until which one of its leases lasts
-- ARGV 1 "note" | "due" | "forget"  2 lease in ms  3 lifetime of the list in ms
--      4... note: team ids; forget: pairs of a team id and the time that `due` gave with it
-- Returns pairs (due): the teams whose time is over, each with its next time. Each is told to one worker in a lease.
--
-- A note ends in half a millisecond, so that `forget` sees that a team was noted again since `due`.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local teams, what, ends = KEYS[1], ARGV[1], now + tonumber(ARGV[2])
local told = {}
if what == 'note' then
  for at = 4, #ARGV do redis.call('ZADD', teams, 'GT', string.format('%d.5', ends), ARGV[at]) end
elseif what == 'due' then
  for _, team in ipairs(redis.call('ZRANGEBYSCORE', teams, '-inf', '(' .. now, 'LIMIT', 0, 100)) do
    redis.call('ZADD', teams, ends, team)
    told[#told + 1] = team
    told[#told + 1] = ends
  end
else
  for at = 4, #ARGV, 2 do
    if redis.call('ZSCORE', teams, ARGV[at]) == ARGV[at + 1] then redis.call('ZREM', teams, ARGV[at]) end
  end
end
redis.call('PEXPIRE', teams, ARGV[3])
return told
