-- Shared by the scripts that check an API key.

local function has_passed(time_ms, now)
  time_ms = tonumber(time_ms or '0') or 0
  return time_ms ~= 0 and now >= time_ms
end

-- Returns nil if the key is valid; otherwise the reason (gateway/identity/api_keys.py), and the time in ms since when
-- it applies, or 0. `secret_until` is the key's field "s:<SHA-256>", `ended_ms` its field "e:<SHA-256>" (rotate_v1).
-- Clients do not see the reason: unknown, disabled and expired keys get the same answer.
local function why_invalid(now, secret_until, ended_ms, key_status, key_expires_ms, team_status, team_expires_ms)
  if not key_status then return 'unknown_key', 0 end
  if not secret_until then
    if ended_ms then return 'secret_ended', tonumber(ended_ms) end
    return 'unknown_secret', 0
  end
  if has_passed(secret_until, now) then return 'secret_ended', tonumber(secret_until) end
  if key_status ~= 'active' then return 'key_' .. key_status, 0 end
  if has_passed(key_expires_ms, now) then return 'key_expired', tonumber(key_expires_ms) end
  if team_status ~= 'active' then return team_status and 'team_' .. team_status or 'unknown_team', 0 end
  if has_passed(team_expires_ms, now) then return 'team_expired', tonumber(team_expires_ms) end
end
