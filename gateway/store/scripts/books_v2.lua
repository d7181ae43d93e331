-- books_v2: reads a team's balances, holds and the bounds of its journal at one moment, for verification.
--
-- KEYS 1 state  2 holds  3 held  4 journal  5 archived
-- Returns {{state field, value...}, {hold id...}, {hold id, hold...}, first entry's id, last entry's id,
--   number of entries, number of entries ever added, the last entry that was deleted by hand (XDEL; 0-0: none),
--   {field, value...} of what was archived};
--   ids are "" for an empty journal.
local function edge(command, from, to)
  local found = redis.call(command, KEYS[4], from, to, 'COUNT', 1)
  return found[1] and found[1][1] or ''
end

local length, added, deleted = 0, 0, '0-0'
if redis.call('EXISTS', KEYS[4]) == 1 then
  local info = redis.call('XINFO', 'STREAM', KEYS[4])
  for i = 1, #info, 2 do
    if info[i] == 'length' then length = info[i + 1] end
    if info[i] == 'entries-added' then added = info[i + 1] end
    if info[i] == 'max-deleted-entry-id' then deleted = info[i + 1] end
  end
end
return {
  redis.call('HGETALL', KEYS[1]), redis.call('ZRANGE', KEYS[2], 0, -1), redis.call('HGETALL', KEYS[3]),
  edge('XRANGE', '-', '+'), edge('XREVRANGE', '+', '-'), length, added, deleted,
  redis.call('HGETALL', KEYS[5]),
}
