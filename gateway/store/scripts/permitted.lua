-- Returns whether a list permits one of these names, both with one name per line. An empty list permits everything.
local function permitted(list, names)
  if not list or list == '' or names == '' then return true end
  for name in string.gmatch(names, '[^\n]+') do
    if string.find('\n' .. list .. '\n', '\n' .. name .. '\n', 1, true) then return true end
  end
  return false
end
