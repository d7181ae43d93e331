-- response_walk_v3: returns the ids of a chain, at most a slice of it, after checking the key as look_v3 does. If the chain
-- is no longer than a slice, its lifetime is renewed.
--
-- KEYS 1 contents  2 entries  3 use  4 items  5 team  6 key
-- ARGV 1 SHA-256 of the secret  2 id  3 lifetime in ms  4 how many turns of the chain came in earlier slices
-- Returns {"key", reason, since when in ms} if the key is not valid (key_status.lua), or
--         {"ids", the next id or "", {id, ...}, the first id that is missing or deleted, or ""} from this turn to the root.
--         Deleted turns are among the ids, except the turn itself
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
--@include key_status
--@include response_entries

local key = redis.call('HMGET', KEYS[6], 'status', 'expires_ms', 's:' .. ARGV[1], 'e:' .. ARGV[1])
local team = redis.call('HMGET', KEYS[5], 'status', 'expires_ms')
local invalid, since_ms = why_invalid(now, key[3], key[4], key[1], key[2], team[1], team[2])
if invalid then return { 'key', invalid, since_ms } end
if ARGV[2] == '' then return { 'ids', '', {}, '' } end
local ttl_ms = tonumber(ARGV[3])
local before = tonumber(ARGV[4])
local ids, rest, gone = walk(ARGV[2], now, ttl_ms, SLICE)
if before == 0 and gone == ARGV[2] then return { 'ids', '', {}, gone } end
if rest == '' and before + #ids < SLICE then use(ids, now, 0) end
renew(ttl_ms)
return { 'ids', rest, ids, gone or '' }
