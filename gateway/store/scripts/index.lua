-- An index of the journal: where the entry of a hold, or of a response, is. It makes settlement idempotent.
--
-- There is one per team and week, of the week in which a request was admitted, so that a settlement that is repeated looks
-- where the first one wrote, whatever the settings are by then. It is a hash of shards. A shard is a string of records: 4 bytes
-- of a fingerprint and 6 of the time of an entry. A fingerprint is the beginning of the SHA-256 of an id, 14 hexadecimal digits;
-- the first six name the shard. So that shards stay short, their number grows with the number of records: at depth d it
-- is 64 * 4^d. A few records of one shard have the same fingerprint by chance, so the entry itself is compared.

local RECORD, DEEPEST, LONG = 10, 9, 1280
local WEEK_MS = 604800000

-- Returns the field of a shard.
local function shard_of(place, depth)
  return struct.pack('>BI3', depth, floor(place / 4 ^ (DEEPEST - depth)))
end
