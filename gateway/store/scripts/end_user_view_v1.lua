-- end_user_view_v1: returns what the limits of each end user have counted for one end user, by a team's rules or a key's.
--
-- KEYS 1 team  2 end users  [3 key, for its rules instead of the team's]
-- ARGV 1 key id, or "" for the team's rules  2 end user (end_users.lua)
--      3 share of a minute's limit that may come at once, in thousandths
-- Returns {now_ms, 1 if the end user is counted, how many of its requests run, {rule...},
--   1 if the team's calendar is to be written first}. A rule as in view_v4.
--@reads
--@include common
--@include limits
--@include permitted
local now = server_ms()
burst = ARGV[3] / 1000
local team_hash = KEYS[1]
do
--@include meter_counting
--@include overrides
--@include meters
--@include meter_rows
  local function rules_of(hash)
    local text = redis.call('HGET', hash, 'rules')
    return text and cjson.decode(text) or {}
  end
  local of_team = rules_of(team_hash)
  local compiled = KEYS[3] and rules_of(KEYS[3]) or of_team
  local packed = redis.call('HGET', KEYS[2], KEYS[3] and ARGV[1] .. ':' .. ARGV[2] or ARGV[2])
  local _, running, meters = nil, 0, nil
  if packed then _, running, meters = cmsgpack.unpack(packed) end
  load_meters('end_user', nil, nil, { rules = compiled.end_users }, { zone = of_team.zone }, meters, nil)
  return { now, packed and 1 or 0, running, applied_rows(), lacks_calendar and 1 or 0 }
end
