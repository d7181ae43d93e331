"""The event loop of one simulated process: it runs in the world's time and can be stopped, resumed and killed.

Many of them share one thread; the world gives the turn to one at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
from asyncio import events
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import Any, Protocol, TypeVar, TypeVarTuple

from tests.simulation.world import World

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")
_MAX_JOB_S = 0.002


class Dialler(Protocol):
    """Connects processes with what is in the network."""

    async def connect(
        self, loop: ProcessLoop, factory: Callable[[], asyncio.BaseProtocol], host: str, port: int
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        """Raises OSError."""


class ProcessLoop(asyncio.BaseEventLoop):
    """Mutable: whether it is dead or stopped, and what is ready to run."""

    def __init__(self, world: World, dialler: Dialler) -> None:
        super().__init__()
        self.dead = False
        self.errors: list[str] = []
        self._world = world
        self._dialler = dialler
        self._waiting: deque[events.Handle] = deque()
        self._is_planned = False
        self._stopped_until_s = 0.0
        self._tasks: list[asyncio.Task[Any]] = []

    def time(self) -> float:
        """The time, by this process's monotonic clock."""
        return self._world.now_s

    def stop_until(self, when_s: float) -> None:
        """SIGSTOP: nothing of this process runs until then."""
        self._stopped_until_s = max(self._stopped_until_s, when_s)

    def kill(self) -> None:
        """`kill -9`: nothing of this process runs any more, and what it had open is closed."""
        self.dead = True
        self._waiting.clear()
        for task in self._tasks:
            if not task.done():
                coroutine = task.get_coro()
                with contextlib.suppress(RuntimeError):  # it awaits something in a `finally`
                    coroutine.close()
        self._tasks.clear()
        self.close()

    # what asyncio calls

    def call_soon(
        self, callback: Callable[[*Arguments], object], *args: *Arguments, context: Context | None = None
    ) -> asyncio.Handle:
        """Runs it in the next turn."""
        handle = asyncio.Handle(callback, args, self, context)
        self._waiting.append(handle)
        self._plan()
        return handle

    def call_at(
        self, when: float, callback: Callable[[*Arguments], object], *args: *Arguments, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Runs it in a turn at that time."""
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        if not self.dead:
            self._world.at(when, lambda: self._expired(timer))
        return timer

    def call_later(
        self, delay: float, callback: Callable[[*Arguments], object], *args: *Arguments, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Runs it after a while."""
        return self.call_at(self._world.now_s + delay, callback, *args, context=context)

    def create_task(self, coro: Any, **options: Any) -> asyncio.Task[Any]:
        """Keeps the task, so that it can be killed."""
        if len(self._tasks) > 64:
            self._tasks = [task for task in self._tasks if not task.done()]
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self, **options)
        self._tasks.append(task)
        return task

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]  # asyncio's takes type variables for `args`
        """Runs it a moment later, between two turns of any process."""
        future: asyncio.Future[T] = self.create_future()

        def job() -> None:
            if self.dead:
                return
            if self._world.now_s < self._stopped_until_s:
                self._world.at(self._stopped_until_s, job)
                return
            try:
                result = func(*args)
            except Exception as error:  # noqa: BLE001 - it belongs to whoever waits for the result
                self.happen(_fail, future, error)
            else:
                self.happen(_resolve, future, result)

        self._world.after(self._world.random.random() * _MAX_JOB_S, job)
        return future

    async def create_connection(self, protocol_factory: Any, host: Any = None, port: Any = None, **options: Any) -> Any:
        """Connects over the simulated network."""
        return await self._dialler.connect(self, protocol_factory, host, port)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Keeps what nobody handled. What is left of a dead process is no error."""
        if not self.dead:
            self.errors.append(f"{context.get('message')}: {context.get('exception')!r}")

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """The world skips it."""

    # turns

    def _plan(self) -> None:
        if not self._is_planned and not self.dead:
            self._is_planned = True
            self._world.at(max(self._world.now_s, self._stopped_until_s), self._turn)

    def _expired(self, timer: asyncio.TimerHandle) -> None:
        if not self.dead and not timer.cancelled():
            self._waiting.append(timer)
            self._take_turn()

    def happen(self, callback: Callable[[*Arguments], object], *args: *Arguments) -> None:
        """Runs it now, as something that comes from outside, unless the process is stopped."""
        if not self.dead:
            self._waiting.append(asyncio.Handle(callback, args, self))
            self._take_turn()

    def _take_turn(self) -> None:
        if not self._is_planned:
            self._is_planned = True
            self._turn()

    def _turn(self) -> None:
        """Runs what is ready, until others are to run at the same moment."""
        world, waiting = self._world, self._waiting
        self._is_planned = world.now_s < self._stopped_until_s
        if self._is_planned:
            world.at(self._stopped_until_s, self._turn)
            return
        self._is_planned = True
        events._set_running_loop(self)  # noqa: SLF001 - this is how a loop says that it runs
        try:
            while True:
                for _ in range(len(waiting)):
                    if not waiting:  # killed by what ran just now
                        break
                    handle = waiting.popleft()
                    if not handle.cancelled():
                        handle._run()  # noqa: SLF001 - a loop runs its handles
                if not waiting or world.has_more_now:
                    break
        finally:
            events._set_running_loop(None)  # noqa: SLF001 - the same
        self._is_planned = False
        if waiting:
            self._plan()


def _resolve(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
