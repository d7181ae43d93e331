"""A store that is further away: `python -m benchmarks.delay SOCKET PORT MS` passes what comes on, that much later.

Replies wait, requests do not: what counts is the time of a round trip. Each connection has threads of its own, which
sleep to a tenth of a millisecond, where timers of an event loop know only whole ones.
"""

from __future__ import annotations

import queue
import socket
import sys
import threading
import time

_READ_BYTES = 1 << 20


def _pass_on(source: socket.socket, target: socket.socket, delay_s: float) -> None:
    """Passes bytes on until one side ends."""
    waiting: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
    threading.Thread(target=_send, args=(waiting, target), daemon=True).start()
    data = b"-"
    while data:
        data = source.recv(_READ_BYTES)
        waiting.put((time.perf_counter() + delay_s, data))


def _send(waiting: queue.SimpleQueue[tuple[float, bytes]], target: socket.socket) -> None:
    while True:
        due_s, data = waiting.get()
        time.sleep(max(0.0, due_s - time.perf_counter()))
        if not data:
            target.shutdown(socket.SHUT_WR)
            return
        target.sendall(data)


def main() -> None:
    """Serves until it is told to end."""
    path, port, delay_s = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]) / 1000
    listener = socket.create_server(("127.0.0.1", port), backlog=100)
    while True:
        client, _ = listener.accept()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        store = socket.socket(socket.AF_UNIX)
        store.connect(path)
        threading.Thread(target=_pass_on, args=(client, store, 0.0), daemon=True).start()
        threading.Thread(target=_pass_on, args=(store, client, delay_s), daemon=True).start()


if __name__ == "__main__":
    main()
