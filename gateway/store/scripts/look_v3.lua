-- look_v3: checks a key and finds the upstream of a response, for requests that need either before admission.
--
-- It only reads.
-- KEYS 1 team  2 key  [3 record of the response while its request runs, and of settle_v5  4 journal  5 words
--      6... indexes, the newest first]
-- ARGV 1 SHA-256 of the secret  2 names that stand for the operation, one per line; "" to check no operation
--      [3 id of the response  4 its fingerprint, for the indexes  5 for how long responses are remembered, ms]
-- Returns {1, record of the response or ""}, or {1, "", packed entry, its row, its ending} (entry.lua), or
--         {0, why the key is not valid, since when in ms} (key_status.lua), or
--         {-1 the key, or -2 the team, may not use the operation, ""}
--@reads
--@include common
--@include key_status
--@include permitted
--@include entry
--@include index
--@include index_lookup
local now = server_ms()
local key = redis.call('HMGET', KEYS[2], 'status', 'expires_ms', 's:' .. ARGV[1], 'e:' .. ARGV[1], 'operations')
local team = redis.call('HMGET', KEYS[1], 'status', 'expires_ms', 'operations')
local invalid, since_ms = why_invalid(now, key[3], key[4], key[1], key[2], team[1], team[2])
if invalid then return { 0, invalid, since_ms } end
if not permitted(key[5], ARGV[2]) then return { -1, '' } end
if not permitted(team[3], ARGV[2]) then return { -2, '' } end
for at = 6, #KEYS do
  local entry = find_entry(KEYS[at], KEYS[4], ARGV[4], packed_id(ARGV[3]), RESPONSE_ID)
  if entry and entry[VALUES] then
    if string.match(entry[ENTRY_ID], '^%d+') + ARGV[5] < now then break end
    local row, ending = entry[VALUES][ROW], entry[VALUES][ENDING]
    return { 1, '', entry[PACKED_ENTRY], text_of(KEYS[5], row), text_of(KEYS[5], ending) }
  end
end
return { 1, KEYS[3] and redis.call('GET', KEYS[3]) or '' }
