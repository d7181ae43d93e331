-- Adds to the index (index.lua).

-- Returns the depth at which a record is written when the index has so many records: about 32 in each shard.
local function depth_of(record_count)
  local depth, capacity = 0, 2048
  while record_count >= capacity and depth < MAX_DEPTH do
    depth, record_count, capacity = depth + 1, record_count - capacity, capacity * 4
  end
  return depth
end

-- Returns a shard with a record that replaces the one with the same fingerprint, or follows the others. A provider may
-- give one id to all of its responses. A search then finds the newest, and the shard does not grow with each response.
local function with_newest(shard, record)
  local fingerprint = string.sub(record, 1, 4)
  local at = string.find(shard, fingerprint, 1, true)
  while at do
    if at % RECORD_BYTES == 1 then return string.sub(shard, 1, at - 1) .. record .. string.sub(shard, at + RECORD_BYTES) end
    at = string.find(shard, fingerprint, at + 1, true)
  end
  return shard .. record
end

-- Adds one or two fingerprints for an entry. The second belongs to a response. `record_count` is an
-- estimate. Where it is too low and the shards have become long, the next depth is used. The index lives until `life_ms`
-- after the end of its week, and until `life_ms` after its last new shard.
local function add_to_index(index, record_count, entry_id, now, life_ms, hold_fingerprint, response_fingerprint)
  local time = struct.pack('>I6', string.match(entry_id, '^%d+'))
  local hold_place = tonumber(string.sub(hold_fingerprint, 1, 6), 16)
  local hold_record = struct.pack('>I4', tonumber(string.sub(hold_fingerprint, 7), 16)) .. time
  local response_place, response_record = nil, nil
  if response_fingerprint then
    response_place = tonumber(string.sub(response_fingerprint, 1, 6), 16)
    response_record = struct.pack('>I4', tonumber(string.sub(response_fingerprint, 7), 16)) .. time
  end
  local depth, hold_field, response_field, found = depth_of(record_count) - 1, nil, nil, nil
  repeat
    depth = depth + 1
    hold_field, response_field = shard_of(hold_place, depth), response_place and shard_of(response_place, depth)
    found = redis.call('HMGET', index, hold_field, response_field or hold_field)
  until depth == MAX_DEPTH or #(found[1] or '') < LONG_SHARD_BYTES and #(found[2] or '') < LONG_SHARD_BYTES
  local new_fields
  local hold_shard = (found[1] or '') .. hold_record
  if not response_field then new_fields = redis.call('HSET', index, hold_field, hold_shard)
  elseif response_field == hold_field then
    new_fields = redis.call('HSET', index, hold_field, with_newest(hold_shard, response_record))
  else
    new_fields = redis.call('HSET', index, hold_field, hold_shard, response_field, with_newest(found[2] or '', response_record))
  end
  if new_fields > 0 then
    local week_left_ms = (string.match(index, '%d+$') + 1) * WEEK_MS - now
    -- For a key without a lifetime, GT changes nothing, because such a key lives for ever.
    if redis.call('PEXPIRE', index, max(week_left_ms, 0) + life_ms, 'GT') == 0 then
      redis.call('PEXPIRE', index, max(week_left_ms, 0) + life_ms, 'NX')
    end
  end
end
