"""Ways in which a store fails: dead, hung, demoted, full."""

from collections.abc import Callable
from typing import Final

from tests.support.servers import Server

OUTAGES: Final = ["dead", "hung", "read-only", "out of memory"]


def break_by(server: Server, how: str) -> Callable[[], object]:
    """Breaks the store; gives what mends it."""
    match how:
        case "dead":
            server.kill()
            return server.restart
        case "hung":
            server.pause()
            return server.resume
        case "read-only":
            server.run("REPLICAOF", "127.0.0.1", "1")
            return lambda: server.run("REPLICAOF", "NO", "ONE")
        case "out of memory":
            server.run("CONFIG", "SET", "maxmemory", "1")
            return lambda: server.run("CONFIG", "SET", "maxmemory", "0")
    raise AssertionError(how)
