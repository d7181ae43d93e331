-- admin_rotate_v1: gives an admin key a new secret. Its other secrets work until an overlap ends, or end at once.
--
-- KEYS 1 admin key
-- ARGV 1 SHA-256 of the new secret  2 overlap, ms; 0: the others end now  3 maximum number of secrets valid at once
-- Returns {1 done | 2 done before | 0 no such key | -4 too many valid secrets, ms until the next one ends}
--
-- The field "secret" has the newest secret, the only one that earlier versions of the gateway read. The field
-- "s:<SHA-256>" of an earlier secret has the time at which it ends. A later rotation does not change that time. The
-- field "e:<SHA-256>" of an ended secret has the time at which it ended, so that a repeated rotation never restores a
-- secret. Only the last MAX_ENDED of these are stored.
--@include common
local MAX_ENDED = 8
local key, new, overlap_ms, max_valid = KEYS[1], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local fields = redis.call('HGETALL', key)
if #fields == 0 then return { 0, 0 } end
local now, newest = server_ms(), nil
local live, ended, next_end = {}, {}, nil
for i = 1, #fields, 2 do
  local kind, hash = string.match(fields[i], '^([se]):(%x+)$')
  if fields[i] == 'secret' then newest = fields[i + 1] end
  if hash == new then return { 2, 0 } end
  if kind == 's' then
    local ends_ms = tonumber(fields[i + 1])
    if overlap_ms == 0 or ends_ms <= now then
      ended[#ended + 1] = { hash = hash, ended_ms = math.min(ends_ms, now) }
    else
      live[#live + 1] = hash
      if not next_end or ends_ms < next_end then next_end = ends_ms end
    end
  elseif kind == 'e' then
    ended[#ended + 1] = { hash = hash, ended_ms = tonumber(fields[i + 1]) }
  end
end
if newest == new then return { 2, 0 } end
if overlap_ms == 0 then
  ended[#ended + 1] = { hash = newest, ended_ms = now }
elseif #live + 2 > max_valid then
  return { -4, next_end and next_end - now or 0 }
else
  redis.call('HSET', key, 's:' .. newest, now + overlap_ms)
end
table.sort(ended, function(one, other)
  if one.ended_ms ~= other.ended_ms then return one.ended_ms > other.ended_ms end
  return one.hash < other.hash
end)
for place, secret in ipairs(ended) do
  redis.call('HDEL', key, 's:' .. secret.hash)
  if place > MAX_ENDED then redis.call('HDEL', key, 'e:' .. secret.hash)
  else redis.call('HSET', key, 'e:' .. secret.hash, secret.ended_ms) end
end
redis.call('HSET', key, 'secret', new)
return { 1, 0 }
