"""A store that enforces nothing: what the gateway's own check of enforcement has to find."""

import asyncio
import contextlib

import hiredis

from gateway.ledger.admission_call import ADMIT
from tests.support.servers import Server


class UnenforcingStore:
    """A proxy in front of a real store that executes no admission: it answers each one with "admitted"."""

    ADMITTED = b"*16\r\n:1\r\n:1\r\n$0\r\n\r\n$0\r\n\r\n" + b":0\r\n" * 6 + b":-1\r\n" * 6

    def __init__(self, server: Server) -> None:
        self._server = server
        self.admissions = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, before = await asyncio.open_unix_connection(str(self._server.socket_path))
        parser = hiredis.Reader()
        with contextlib.closing(writer), contextlib.closing(before), contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                parser.feed(data)
                while (command := parser.gets()) is not False:
                    if command[:2] == [b"EVALSHA", ADMIT.sha.encode()]:
                        self.admissions += 1
                        writer.write(self.ADMITTED)
                    else:
                        before.write(hiredis.pack_command(tuple(command)))
                        writer.write(await _one_reply(behind))


async def _one_reply(reader: asyncio.StreamReader) -> bytes:
    parser, raw = hiredis.Reader(), b""
    while parser.gets() is False:
        data = await reader.read(65536)
        parser.feed(data)
        raw += data
    return raw
