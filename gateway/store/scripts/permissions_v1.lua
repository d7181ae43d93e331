-- permissions_v1: finds the commands that the store's user may not run. It runs none of them.
--
-- ARGV 1 a key of the gateway  2... commands, a subcommand after a space
-- Returns the commands that the user may not run on the key. On a server older than Redis 7, which cannot check that, it
-- returns none.
local missing = {}
for place = 2, redis.acl_check_cmd and #ARGV or 0 do
  local words = {}
  for word in string.gmatch(ARGV[place], '%S+') do words[#words + 1] = word end
  words[#words + 1] = ARGV[1]
  if not redis.acl_check_cmd(unpack(words)) then missing[#missing + 1] = ARGV[place] end
end
return missing
