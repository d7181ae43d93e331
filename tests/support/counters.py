"""Sets the ledger's counters as if more had happened, or longer ago, with the scripts' own functions and layout."""

from typing import Final

from gateway.store.keyspace import TeamKeys
from gateway.store.script import Script
from tests.support.servers import Server

_SET: Final = """
--@include common
--@include names
local available, held, team, key = load_state(KEYS[1], ARGV[1])
local scope = ARGV[2] == 'key' and key or team
for at, name in pairs(COUNTERS) do
  for pair = 3, #ARGV, 2 do
    if name == ARGV[pair] then scope[at] = tonumber(ARGV[pair + 1]) end
  end
end
save_state(KEYS[1], ARGV[1], available, held, team, key)
"""


def set_counters(store: Server, team_id: str, key_id: str, scope: str, **counters: int) -> None:
    """Sets counters of a team (`scope` "team") or of its key ("key"), by the names in scripts/names.lua."""
    words = [str(word) for pair in counters.items() for word in pair]
    store.run("EVAL", Script.from_text("set", _SET).source, 1, TeamKeys(team_id).state, key_id, scope, *words)
