-- An index of the journal. It finds the entry of a hold or of a response, and makes settlement idempotent.
--
-- A team has one index per week. A request belongs to the index of the week in which it was admitted. A repeated
-- settlement therefore searches where the first one wrote, even after a change of settings. An index is a hash of
-- shards. A shard is a string of records: 4 bytes of a fingerprint, and 6 bytes for the time of an entry. A fingerprint
-- is the beginning of the SHA-256 of an id, 14 hexadecimal digits. The first six select the shard. To keep shards
-- short, their number grows with the number of records: at depth d it is 64 * 4^d. By chance a few records of a shard
-- may have the same fingerprint, so the entry itself is compared.

local RECORD_BYTES, MAX_DEPTH, LONG_SHARD_BYTES = 10, 9, 1280
local WEEK_MS = 604800000

-- Returns the field of a shard.
local function shard_of(place, depth)
  return struct.pack('>BI3', depth, floor(place / 4 ^ (MAX_DEPTH - depth)))
end
