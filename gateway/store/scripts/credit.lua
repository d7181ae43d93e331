-- For the scripts that move credits.

-- Posts a grant or an adjustment, and records it under its idempotency key. `expires`: when the credits expire, ms; ""
-- for never. Returns the available amount afterwards.
local function post_credit(state, journal, idempotency, kind, amount, id, note, expires, now, idem_ttl, journal_ttl)
  local held = redis.call('HMGET', state, 'held')
  local available = redis.call('HINCRBY', state, 'available', amount)
  redis.call('HINCRBY', state, 'granted', amount)
  redis.call('XADD', journal, 'MINID', '~', now - journal_ttl, '*', 'type', kind, 'id', id, 'amount', amount,
    'balance', available + tonumber(held[1] or '0'), 'note', note, unpack(expires == '' and {} or { 'expires', expires }))
  redis.call('SET', idempotency, kind .. ' ' .. amount .. ' ' .. id .. (expires == '' and '' or ' ' .. expires), 'PX', idem_ttl)
  return available
end
