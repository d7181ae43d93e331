-- Adds to the index (index.lua).

-- Returns the depth at which a record is written when the index has n records: about 32 in each shard.
local function depth_of(n)
  local depth, room = 0, 2048
  while n >= room and depth < DEEPEST do depth, n, room = depth + 1, n - room, room * 4 end
  return depth
end

-- Returns a shard with a record that replaces the one with the same fingerprint, or follows the others. A provider may
-- give one id to all of its responses. A search then finds the newest, and the shard does not grow with each response.
local function with_newest(shard, record)
  local fingerprint = string.sub(record, 1, 4)
  local at = string.find(shard, fingerprint, 1, true)
  while at do
    if at % RECORD == 1 then return string.sub(shard, 1, at - 1) .. record .. string.sub(shard, at + RECORD) end
    at = string.find(shard, fingerprint, at + 1, true)
  end
  return shard .. record
end

-- Adds one or two fingerprints for an entry. The second belongs to a response. `n` is an estimate of the number of
-- records. Where it is too low and the shards have become long, the next depth is used. The index lives until `life`
-- after the end of its week, and until `life` after its last new shard.
local function add_to_index(index, n, entry_id, now, life, one, two)
  local time = struct.pack('>I6', string.match(entry_id, '^%d+'))
  local place, record = tonumber(string.sub(one, 1, 6), 16), struct.pack('>I4', tonumber(string.sub(one, 7), 16)) .. time
  local other, more = nil, nil
  if two then
    other, more = tonumber(string.sub(two, 1, 6), 16), struct.pack('>I4', tonumber(string.sub(two, 7), 16)) .. time
  end
  local depth, first, second, found = depth_of(n) - 1, nil, nil, nil
  repeat
    depth = depth + 1
    first, second = shard_of(place, depth), other and shard_of(other, depth)
    found = redis.call('HMGET', index, first, second or first)
  until depth == DEEPEST or #(found[1] or '') < LONG and #(found[2] or '') < LONG
  local added
  if not second then added = redis.call('HSET', index, first, (found[1] or '') .. record)
  elseif second == first then added = redis.call('HSET', index, first, with_newest((found[1] or '') .. record, more))
  else added = redis.call('HSET', index, first, (found[1] or '') .. record, second, with_newest(found[2] or '', more)) end
  if added > 0 then
    local left = (string.match(index, '%d+$') + 1) * WEEK_MS - now
    -- For a key without a lifetime, GT changes nothing, because such a key lives for ever.
    if redis.call('PEXPIRE', index, max(left, 0) + life, 'GT') == 0 then
      redis.call('PEXPIRE', index, max(left, 0) + life, 'NX')
    end
  end
end
