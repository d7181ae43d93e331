-- The form of a settlement in the journal: one field "e" of a stream's entry, a sequence of MessagePack values.
-- ledger/packed_entry.py reads it.
--
--   hold id | row | ending | cost | balance after it | hold, nano-USD | input, cached, output, reasoning tokens | admitted_ms
--   [| the response's id [| the cost's calculation [| the note about the response [| the provider's id of it, if different
--   [| the amount by which the cost exceeds the hold of the request that created the response
--   [| the request's tags [| its end user [| the lots that paid (lots.lua), where the response's usage may correct the
--   cost later]]]]]]]]
--
--   row      "<key id>|<model>"
--   ending   three lines: "<settle or void> <outcome> <settled_by> <upstream>", the calculation of a plain cost, the
--            fingerprint of the upstream's key if the response is remembered
-- Rows and endings recur in many entries. The entries therefore have numbers for them, which the team's hash "words"
-- explains (":<text>" -> number, "=<number>" -> text). Once it has MAX_WORDS texts, entries contain new texts
-- themselves.

local MAX_TEXTS = 4096
local ROW, ENDING, COST, BALANCE, RESPONSE_ID, PAID_BY = 2, 3, 4, 5, 12, 19 -- places of some of the values

-- Returns an id with its hexadecimal digits as bytes. The first byte stands for the prefix. An id in another form
-- remains a text.
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
