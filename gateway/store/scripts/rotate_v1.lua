-- rotate_v1: gives a key a new secret. Its other secrets work until an overlap ends, or end at once.
--
-- KEYS 1 key  [2 the claim of an idempotency key]
-- ARGV 1 SHA-256 of the new secret  2 overlap, ms; 0: the others end now  3 maximum number of secrets valid at once
-- Returns {1 done | 2 done before | 0 no such key | -3 revoked | -4 too many valid secrets, version, ms until the next ends}
--
-- An earlier secret ends when its own rotation said; later rotations do not change that. Secrets that have ended are
-- removed. For the last MAX_ENDED of them, the field "e:<SHA-256>" has the time at which they ended. Operators can then
-- see why a program that still uses one is refused. The claim is marked "done" in the same step, so that a repeated
-- call never restores a secret that has been replaced since.
--@include common
local MAX_ENDED = 8
local key, claim = KEYS[1], KEYS[2]
local new, overlap, max_valid = 's:' .. ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local version = tonumber(redis.call('HGET', key, 'version') or false)
if not version then return { 0, 0, 0 } end
local claimed = claim and redis.call('GET', claim)
if claimed and string.match(claimed, ' done$') or redis.call('HEXISTS', key, new) == 1 then return { 2, version, 0 } end
if redis.call('HGET', key, 'status') == 'revoked' then return { -3, version, 0 } end

local now = server_ms()
local fields = redis.call('HGETALL', key)
local live, ended, next_end = {}, {}, nil
local remembered = {}
for i = 1, #fields, 2 do
  local hash, old = string.match(fields[i], '^s:(%x+)$'), string.match(fields[i], '^e:(%x+)$')
  if old then remembered[#remembered + 1] = { hash = old, ended_ms = tonumber(fields[i + 1]) } end
  if hash then
    local ends = tonumber(fields[i + 1])
    if overlap == 0 or (ends ~= 0 and ends <= now) then
      ended[#ended + 1] = hash
      remembered[#remembered + 1] = { hash = hash, ended_ms = ends ~= 0 and math.min(ends, now) or now }
    else
      live[#live + 1] = { hash = hash, ends = ends }
      if ends ~= 0 and (not next_end or ends < next_end) then next_end = ends end
    end
  end
end
if #live + 1 > max_valid then return { -4, version, next_end and next_end - now or 0 } end

for _, hash in ipairs(ended) do redis.call('HDEL', key, 's:' .. hash, 'u:' .. hash) end
table.sort(remembered, function(one, other)
  if one.ended_ms ~= other.ended_ms then return one.ended_ms > other.ended_ms end
  return one.hash < other.hash
end)
for place, secret in ipairs(remembered) do
  if place > MAX_ENDED then redis.call('HDEL', key, 'e:' .. secret.hash)
  else redis.call('HSET', key, 'e:' .. secret.hash, secret.ended_ms) end
end
for _, secret in ipairs(live) do
  if secret.ends == 0 then redis.call('HSET', key, 's:' .. secret.hash, now + overlap) end
end
redis.call('HSET', key, new, '0', 'version', version + 1, 'updated_ms', now)
if claimed then redis.call('SET', claim, claimed .. ' done', 'KEEPTTL') end
return { 1, version + 1, 0 }
