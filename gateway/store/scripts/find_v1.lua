-- find_v1: finds a request by its id, whether it runs or has ended.
--
-- KEYS 1 held  2 journal  3 words  4 the record in which settle_v5 stored its end  5... indexes, the newest first
-- ARGV 1 id  2 its fingerprint, for the indexes  3 "": the id is a hold's; "12": it is a response's, and its last entry
--      is searched
-- Returns {} | {"open", hold} | {"done", settle_v5's record} | {"entry", entry id, packed entry, its row, its ending}
--   (entry.lua)
--@reads
--@include common
--@include entry
--@include index
--@include index_lookup
if ARGV[3] == '' then
  local open = redis.call('HGET', KEYS[1], ARGV[1])
  if open then return { 'open', open } end
  local done = redis.call('GET', KEYS[4])
  if done then return { 'done', done } end
end
for at = 5, #KEYS do
  local entry = find_entry(KEYS[at], KEYS[2], ARGV[2], packed_id(ARGV[1]), ARGV[3] == '' and 1 or ARGV[3] + 0)
  if entry and entry[VALUES] then
    local row, ending = entry[VALUES][ROW], entry[VALUES][ENDING]
    return { 'entry', entry[ENTRY_ID], entry[PACKED_ENTRY], text_of(KEYS[3], row), text_of(KEYS[3], ending) }
  end
end
return {}
