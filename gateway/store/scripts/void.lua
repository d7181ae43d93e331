-- For the scripts that void holds.

-- Voids one hold and journals it as expired. If the team's data is damaged, this fails before anything is written.
local function void_hold(state, holds, held, journal, end_users, now, id)
  local text = redis.call('HGET', held, id)
  local hold = text and parse_hold(text)
  if hold then hold.end_users = end_users end
  local balance = hold and resolve(state, journal, hold, now, nil, nil, 0, 0, 1)
  redis.call('ZREM', holds, id)
  redis.call('HDEL', held, id)
  if hold then
    redis.call('XADD', journal, '*', 'type', 'expire', 'id', id, 'key', hold.key_id, 'amount', 0,
      'balance', balance, 'hold', hold.amount)
  end
end
