-- entries_v1: reads entries of a journal, and the texts that the numbers in them stand for.
--
-- KEYS 1 journal  2 words
-- ARGV 1 "XRANGE" or "XREVRANGE"  2 from  3 to  4 maximum number of entries, or ""
-- Returns {{{entry id, {field, value...}}...}, {number, text, ...}} (entry.lua)
local found = ARGV[4] == '' and redis.call(ARGV[1], KEYS[1], ARGV[2], ARGV[3])
  or redis.call(ARGV[1], KEYS[1], ARGV[2], ARGV[3], 'COUNT', ARGV[4])
local texts, known = {}, {}
for _, entry in ipairs(found) do
  local fields = entry[2]
  if fields[1] == 'e' then
    -- An unreadable entry has no texts. Its reader reports it.
    local whole, _, row, ending = pcall(cmsgpack.unpack, fields[2])
    for _, word in ipairs(whole and { row, ending } or {}) do
      if type(word) == 'number' and not known[word] then
        known[word] = true
        local number = string.format('%d', word)
        texts[#texts + 1], texts[#texts + 2] = number, redis.call('HGET', KEYS[2], '=' .. number) or ''
      end
    end
  end
end
return { found, texts }
