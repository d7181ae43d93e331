-- response_walk_v1: returns the ids of a chain and renews their lifetime, after checking the key as look_v2 does.
--
-- KEYS 1 contents  2 entries  3 use  4 items  5 team  6 key
-- ARGV 1 SHA-256 of the secret  2 id  3 lifetime in ms  4 maximum number of turns
-- Returns {"key", why, since when in ms} if the key is not valid (key_status.lua); {"gone", id} if this id is missing or
--         deleted; {"deep"} if the chain has too many turns; {"ids", id, ...} from the turn to the root
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
--@include key_status
--@include response_entries

local key = redis.call('HMGET', KEYS[6], 'status', 'expires_ms', 's:' .. ARGV[1], 'e:' .. ARGV[1])
local team = redis.call('HMGET', KEYS[5], 'status', 'expires_ms')
local invalid, since_ms = why_invalid(now, key[3], key[4], key[1], key[2], team[1], team[2])
if invalid then return { 'key', invalid, since_ms } end
if ARGV[2] == '' then return { 'ids' } end
local ttl_ms = tonumber(ARGV[3])
local ids, missing = walk(ARGV[2], now, ttl_ms, tonumber(ARGV[4]))
if not ids then return missing == '' and { 'deep' } or { 'gone', missing } end
renew(ttl_ms)
return { 'ids', unpack(ids) }
