-- background_teams_v1: lists the teams with background responses whose workers may have died.
--
-- KEYS 1 teams: each by the time in ms at which one of its leases ends
-- ARGV 1 the step: "note" | "due" | "forget"  2 lease in ms  3 lifetime of the list in ms
--      4... note: team ids; forget: pairs of a team id and the time that `due` returned with it
-- Returns pairs (due): the teams whose time has passed, each with its next time. Within one lease, only one worker gets
-- a team.
--
-- The times of the step "note" end in half a millisecond. The step "forget" thereby detects that a team was noted again
-- after "due".
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local teams, step, ends = KEYS[1], ARGV[1], now + tonumber(ARGV[2])
local due = {}
if step == 'note' then
  for at = 4, #ARGV do redis.call('ZADD', teams, 'GT', string.format('%d.5', ends), ARGV[at]) end
elseif step == 'due' then
  for _, team in ipairs(redis.call('ZRANGEBYSCORE', teams, '-inf', '(' .. now, 'LIMIT', 0, 100)) do
    redis.call('ZADD', teams, ends, team)
    due[#due + 1] = team
    due[#due + 1] = ends
  end
else
  for at = 4, #ARGV, 2 do
    if redis.call('ZSCORE', teams, ARGV[at]) == ARGV[at + 1] then redis.call('ZREM', teams, ARGV[at]) end
  end
end
redis.call('PEXPIRE', teams, ARGV[3])
return due
