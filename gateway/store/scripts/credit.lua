-- For the scripts that move credits.

-- Posts a grant or an adjustment, and records it under its idempotency key. Returns the available amount afterwards.
local function post_credit(state, journal, idem, kind, amount, id, note, now, idem_ttl, journal_ttl)
  local money = redis.call('HMGET', state, 'held')
  local available = redis.call('HINCRBY', state, 'available', amount)
  redis.call('HINCRBY', state, 'granted', amount)
  redis.call('XADD', journal, 'MINID', '~', now - journal_ttl, '*', 'type', kind, 'id', id, 'amount', amount,
    'balance', available + tonumber(money[1] or '0'), 'note', note)
  redis.call('SET', idem, kind .. ' ' .. amount .. ' ' .. id, 'PX', idem_ttl)
  return available
end
