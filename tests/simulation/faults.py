"""What goes wrong in a schedule, as a table: each fault begins at some moment and is over after a while.

`loses`: afterwards the limits of teams need not hold, because a server or a gateway was gone for longer than anybody
can bridge. What was charged must be right all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from tests.simulation.network import Link
from tests.simulation.nodes import Errors, Words
from tests.simulation.scene import Scene

REQUESTS: Final = frozenset({"admit_v8", "settle_v8"})
RECOVERS_S: Final = 0.6
"""Within this time after a fault, gateways have restored what can be restored."""
REPLIES: Final = (
    b"-TRYAGAIN Multiple keys request during rehashing of slot\r\n",
    b"-NOPERM this user has no permissions to run the 'evalsha' command\r\n",
    b"-LOADING Valkey is loading the dataset in memory\r\n",
    b"-READONLY You can't write against a read only replica.\r\n",
    b"-OOM command not allowed when used memory > 'maxmemory'.\r\n",
    b"-BUSY Valkey is busy running a script.\r\n",
    b"-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.\r\n",
    b"-CLUSTERDOWN The cluster is down\r\n",
    b"-MISCONF Errors writing to the AOF file\r\n",
    b"-NOREPLICAS Not enough good replicas to write.\r\n",
    b"-ERR something that nobody has foreseen\r\n",
)


def cut_now(scene: Scene, lasts_s: float) -> None:
    """All connections are lost, and what is on its way with them."""
    scene.network.cut_all(scene.node)


def cut_one_gateway(scene: Scene, lasts_s: float) -> None:
    if scene.living():
        scene.network.cut_all(loop=scene.world.random.choice(scene.living()).loop)


def cut_at_a_command(scene: Scene, lasts_s: float) -> None:
    """The connection of one of the next commands is lost before or after it is executed."""
    left = scene.world.random.randrange(1, 12)
    fate = scene.world.random.choice(("cut before", "cut after"))
    only = scene.world.random.choice((None, "admit_v8", "settle_v8"))

    def decide(link: Link, words: Words) -> str:
        nonlocal left
        if left > 0 and (only is None or link.node.called(words) == only):
            left -= 1
            return "" if left else fate
        return ""

    scene.network.fates.append(decide)


def lost_by_the_client(scene: Scene, lasts_s: float) -> None:
    """The gateways lose their connections; what they were sending arrives all the same, later."""
    for link in scene.network.links:
        link.lose(after_s=scene.world.random.random() * 0.03, late_s=lasts_s)


def store_stands_still(scene: Scene, lasts_s: float) -> None:
    """SIGSTOP: connections stay, what is sent to it waits in its socket and runs when it wakes."""
    scene.node.stands_still_until_s = scene.world.now_s + lasts_s


def store_away(scene: Scene, lasts_s: float) -> None:
    """It is restarted, and has everything that it had."""
    node = scene.node
    node.refuses = True
    scene.network.cut_all(node)

    def back() -> None:
        node.refuses = False
        if scene.world.random.random() < 0.5:
            node.loaded.clear()

    scene.world.after(lasts_s, back)


def forgets_scripts(scene: Scene, lasts_s: float) -> None:
    scene.node.loaded.clear()


def slow_network(scene: Scene, lasts_s: float) -> None:
    scene.network.slow_until_s = scene.world.now_s + lasts_s
    scene.network.slow_s = scene.world.random.choice((0.01, 0.05, 0.1))


def errors_on_requests(scene: Scene, lasts_s: float) -> None:
    """Admissions, settlements or both are answered with errors, some or all of them."""
    scripts = scene.world.random.choice((REQUESTS, frozenset({"admit_v8"}), frozenset({"settle_v8"})))
    reply = scene.world.random.choice(REPLIES)
    probability = scene.world.random.choice((0.3, 1.0))
    scene.node.errors.append(Errors(reply, scripts, probability, scene.world.now_s + lasts_s))


def gateway_killed(scene: Scene, lasts_s: float) -> None:
    """`kill -9`; another one starts on the same disk after a while, and may be told that this one died."""
    if not scene.living():
        return
    gateway = scene.world.random.choice(scene.living())
    place = int(gateway.name[:-1])
    owner = gateway.ledger.owner if gateway.ledger is not None else ""
    lost = (owner,) if owner and scene.world.random.random() < 0.5 else ()
    scene.kill_gateway(gateway)
    scene.world.after(lasts_s, lambda: scene.start_gateway(place, lost))


def gateway_silent(scene: Scene, lasts_s: float) -> None:
    """Nothing passes between one gateway and the store; later everything does."""
    if scene.living():
        loop = scene.world.random.choice(scene.living()).loop
        scene.network.silent_until_s[loop] = scene.world.now_s + lasts_s
        _unsure(scene, lasts_s)


def gateway_stands_still(scene: Scene, lasts_s: float) -> None:
    """SIGSTOP of one gateway."""
    if scene.living():
        scene.world.random.choice(scene.living()).loop.stop_until(scene.world.now_s + lasts_s)
        _unsure(scene, lasts_s)


def _unsure(scene: Scene, lasts_s: float) -> None:
    """A gateway that is silent for longer than its lease is taken for dead."""
    if lasts_s > scene.rules.policy.lease_s / 3:
        scene.model.unsure(scene.world.now_s + lasts_s + RECOVERS_S)


def fails_over(scene: Scene, lasts_s: float) -> None:
    """The primary dies. After a while a replica takes its place that lags: it lacks what was acknowledged last."""
    old = scene.node
    scene.model.unsure(scene.world.now_s + lasts_s + RECOVERS_S)
    lag = scene.world.random.randrange(0, 12)
    place = max(scene.founded, len(old.log) - lag)
    old.refuses = True
    scene.network.cut_all(old)

    def promoted() -> None:
        new = scene.fail_over(min(place, len(old.log)))
        new.ahead_ms = scene.world.random.choice((0, 0, 40, -40))

    scene.world.after(lasts_s, promoted)


@dataclass(frozen=True)
class Fault:
    """One thing that can go wrong; it lasts between these bounds."""

    begin: Callable[[Scene, float], None]
    shortest_s: float
    longest_s: float


FAULTS: Final[Mapping[str, Fault]] = MappingProxyType(
    {
        fault.begin.__name__: fault
        for fault in (
            Fault(cut_now, 0, 0),
            Fault(cut_one_gateway, 0, 0),
            Fault(cut_at_a_command, 0, 0),
            Fault(lost_by_the_client, 0.01, 0.3),
            Fault(store_stands_still, 0.05, 3.5),
            Fault(store_away, 0.02, 0.8),
            Fault(forgets_scripts, 0, 0),
            Fault(slow_network, 0.05, 0.5),
            Fault(errors_on_requests, 0.05, 0.8),
            Fault(gateway_killed, 0.02, 1.0),
            Fault(gateway_silent, 0.05, 1.0),
            Fault(gateway_stands_still, 0.05, 1.0),
            Fault(fails_over, 0.02, 0.5),
        )
    }
)
