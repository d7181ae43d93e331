-- The usage of a request's tags on a day, for settlement. A script includes it inside of a block, before its first
-- write.
--
-- ARGV[28]: "<maximum values of a name> <maximum names> <lifetime, ms>", then a line for each tag, "<name>=<value>". A
-- name is "t:" and the tag's name, or "u" for the end user. A value is not empty.
-- KEYS[12], a hash: "<name>=<value>" -> "requests input cached output cost", as in the usage of a day;
--   "#<name>" -> the number of the name's values; "#" -> the number of the tags' names
-- Values beyond the maximum count under "<name>=", and names beyond the maximum count under "=". The variable `tags`
-- becomes the fields to write. `tags.life_ms` is the lifetime of a hash that this request creates.
local most_values, most_names, life_ms = string.match(ARGV[28], '^(%d+) (%d+) (%d+)')
local names = redis.call('HGET', KEYS[12], '#')
tags = { life_ms = not names and life_ms }
names = tonumber(names or 0)
for line in string.gmatch(ARGV[28], '\n([^\n]+)') do -- no name comes twice; tags that count together write the same value
  local name = string.match(line, '^[^=]*')
  local found = redis.call('HMGET', KEYS[12], line, '#' .. name)
  local before, values = found[1], tonumber(found[2] or 0)
  if not before then
    local is_new = values == 0 and name ~= 'u'
    if is_new and names >= most_names + 0 then line = '='
    elseif values >= most_values + 0 then line = name .. '='
    else
      names = is_new and names + 1 or names
      tags[#tags + 1], tags[#tags + 2] = '#' .. name, string.format('%d', values + 1)
      tags[#tags + 1], tags[#tags + 2] = '#', string.format('%d', names)
    end
    if string.sub(line, -1) == '=' then before = redis.call('HGET', KEYS[12], line) end
  end
  local requests_before, input_before, cached_before, output_before, cost_before =
    string.match(before or '0 0 0 0 0', '^(%S+) (%S+) (%S+) (%S+) (%S+)$')
  tags[#tags + 1], tags[#tags + 2] = line, string.format('%d %d %d %d %d',
    requests_before + counted, input_before + input, cached_before + cached, output_before + output, cost_before + cost)
end
