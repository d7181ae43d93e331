-- For the scripts that void holds.

-- Voids one hold and journals it as expired.
local function void_hold(state, holds, held, journal, now, id)
  local text = redis.call('HGET', held, id)
  redis.call('ZREM', holds, id)
  redis.call('HDEL', held, id)
  if text then
    local hold = parse_hold(text)
    local balance = resolve(state, hold, now, nil, nil, 0, 0, 1)
    redis.call('XADD', journal, '*', 'type', 'expire', 'id', id, 'key', hold.key_id, 'amount', 0,
      'balance', balance, 'hold', hold.amount)
  end
end
