"""Lua that runs in front of the gateway's scripts, so that they live in simulated time.

The last argument of each call is the time in ms. The script does not see it; `TIME`, the ids of streams and the
lifetimes of keys follow it. Everything else is the server's own.

A lifetime is stored as the server stores it, as the moment at which the key expires. The simulation begins so late
that the real clock never reaches one; a key whose moment has come is removed when a script asks for it.
"""

from __future__ import annotations

import hashlib
from typing import Final

SHIM: Final = """
local real, redis = redis, nil
do
local NOW = table.remove(ARGV) + 0
local function stamped(key, ...)
  local words, star = { ... }, nil
  for at, word in ipairs(words) do if word == '*' then star = at break end end
  if star then words[star] = string.format('%d-*', NOW) end
  local reply = real.pcall('XADD', key, unpack(words))
  if type(reply) ~= 'table' or not reply.err then return reply end
  local last = real.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]
  if not star or not last then return real.call('XADD', key, unpack(words)) end
  words[star] = string.match(last[1], '^%d+') .. '-*'
  return real.call('XADD', key, unpack(words))
end
local function set(key, value, ...)
  local words = { ... }
  for at, word in ipairs(words) do
    if word == 'PX' then words[at], words[at + 1] = 'PXAT', string.format('%d', words[at + 1] + NOW) end
  end
  return real.call('SET', key, value, unpack(words))
end
local commands = {
  TIME = function() return { string.format('%d', NOW / 1000), string.format('%d', NOW % 1000 * 1000) } end,
  XADD = stamped,
  SET = set,
  PEXPIRE = function(key, life, ...) return real.call('PEXPIREAT', key, string.format('%d', life + NOW), ...) end,
  PTTL = function(key)
    local ends = real.call('PEXPIRETIME', key)
    return ends < 0 and ends or ends - NOW
  end,
}
redis = setmetatable({
  call = function(command, ...)
    local ours = commands[command]
    if ours then return ours(...) end
    return real.call(command, ...)
  end,
}, { __index = real })
for _, key in ipairs(KEYS) do
  local ends = real.call('PEXPIRETIME', key)
  if ends > 0 and ends <= NOW then real.call('DEL', key) end
end
end
"""


def scripted(source: bytes) -> bytes:
    """Returns a script of the gateway with the shim in front."""
    return SHIM.encode() + source


def sha(source: bytes) -> str:
    """Returns the name under which a server keeps a script."""
    return hashlib.sha1(source, usedforsecurity=False).hexdigest()
