-- A settlement as the journal keeps it: one field "e" of a stream's entry, a sequence of MessagePack values.
-- ledger/packed_entry.py reads it.
--
--   hold id | row | ending | cost | balance after it | hold, nano-USD | input, cached, output, reasoning tokens | admitted_ms
--   [| the response's id [| how the cost came about [| what is remembered of the response [| the provider's id of it, if another
--   [| by how much the cost is above the hold of the request that made the response
--   [| the request's tags, where the response's usage may correct the cost later]]]]]]
--
--   row      "<key id>|<model>"
--   ending   "<settle or void> <outcome> <settled_by> <upstream>", line, how a plain cost came about, line, fingerprint of
--            the upstream's key if the response is remembered
-- Texts that return in many entries, rows and endings, are numbers. The team's hash "words" explains them
-- (":<text>" -> number, "=<number>" -> text). It is bounded: beyond that the texts stand in the entries.

local MOST_WORDS = 4096

-- Returns an id with its hexadecimal digits as bytes. The first byte names the prefix; an id in another form is a text.
local function packed_id(id)
  local prefix, digits = string.match(id, '^(%l+)_([0-9a-f]+)$')
  local code = prefix == 'req' and '\1' or prefix == 'resp' and '\2' or prefix == 'usage' and '\3'
  if not code or #digits % 2 == 1 then return string.find(id, '^%c') and '\0' .. id or id end
  local parts = { code }
  for at = 1, #digits, 12 do
    local some = string.sub(digits, at, at + 11)
    parts[#parts + 1] = struct.pack('>I' .. #some / 2, tonumber(some, 16))
  end
  return table.concat(parts)
end
