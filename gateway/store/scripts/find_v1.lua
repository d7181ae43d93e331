-- find_v1: finds a request by its id: running, or how it ended.
--
-- KEYS 1 held  2 journal  3 words  4 how settle_v5 kept its end  5... indexes, the newest first
-- ARGV 1 hold id  2 its fingerprint, for the indexes  3 "": a hold id; "12": the id of a response, whose last entry is found
-- Returns {} | {"open", hold} | {"done", what settle_v5 kept} | {"entry", entry id, packed entry, its row, its ending} (entry.lua)
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
  if entry and entry[3] then
    return { 'entry', entry[1], entry[2], text_of(KEYS[3], entry[3][2]), text_of(KEYS[3], entry[3][3]) }
  end
end
return {}
