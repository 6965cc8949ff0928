"""Ways in which a program ends that has a runtime open: ``WAYS[name]`` is what it does, and its exit status.

Each finds ``MARK``, a path, and prints with ``load.tell()`` what it has started just before its end.
"""

from __future__ import annotations

from typing import NamedTuple

BEGIN = """
import asyncio, atexit, contextlib, gc, os, signal, sys, threading, time
import dspex
from tests.exits import load
MARK = sys.argv[1]
"""
_BUSY = "runtime = load.runtime().open()\nload.occupy(runtime, MARK)\nload.tell()\n"


class Way(NamedTuple):
    """What a program does.

    Attributes:
        text: Its text.
        status: Its exit status.
        says: How its standard error ends.
        tidy: Whether its socket is gone too, and not only once somebody looks.
    """

    text: str
    status: int = 0
    says: str = ""
    tidy: bool = True


WAYS = {
    "end of the script": Way(_BUSY),
    "sys.exit": Way(_BUSY + "sys.exit(7)", 7),
    "exception": Way(_BUSY + "raise KeyError('mine')", 1, "KeyError: 'mine'\n"),
    "os._exit": Way(_BUSY + "os._exit(5)", 5, tidy=False),
    "SIGTERM": Way(_BUSY + "signal.raise_signal(signal.SIGTERM)", -15, tidy=False),
    "SIGINT": Way(_BUSY + "signal.raise_signal(signal.SIGINT)", -2, "KeyboardInterrupt\n"),
    "a handler of SIGTERM": Way(
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        "with load.runtime() as runtime:\n"
        "    load.occupy(runtime, MARK)\n"
        "    load.tell()\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(60)",
        143,
    ),
    "threads that are no daemons": Way(
        "runtime = load.runtime().open()\nload.occupy(runtime, MARK, seconds=0.3, daemon=False)\nload.tell()"
    ),
    "daemon threads that call on and on": Way(
        """
runtime = load.runtime().open()
def call():
    while True:
        try:
            runtime.pool().execute("ping")
        except dspex.PoolClosed:
            return
for _ in range(8):
    threading.Thread(target=call, daemon=True).start()
time.sleep(0.2)
load.tell()
"""
    ),
    "a thread that still opens": Way(
        """
def opens():
    with contextlib.suppress(dspex.PoolClosed):
        load.runtime().open()
threading.Thread(target=opens, daemon=True).start()
load.until(lambda: load.descendants(os.getpid()), 30)
load.tell()
"""
    ),
    "the thread that opened has ended": Way(
        """
opened = []
opening = threading.Thread(target=lambda: opened.append(load.runtime().open()))
opening.start()
opening.join()
load.occupy(opened[0], MARK)
load.tell()
"""
    ),
    "a slow subscriber": Way(
        "runtime = load.runtime().open()\n"
        "runtime.on(dspex.Event, lambda _: time.sleep(0.02))\n"
        "load.occupy(runtime, MARK)\n"
        "load.tell()"
    ),
    "a call at exit": Way(
        "runtime = load.runtime().open()\n"
        "atexit.register(lambda: sys.stderr.write(runtime.pool().execute('ping')))\n"
        "load.tell()",
        says="pong",
    ),
    "a loop that ends with the runtime open": Way(
        """
async def main():
    runtime = await load.runtime().aopen()
    calls = await load.aoccupy(runtime, MARK)
    load.tell()
asyncio.run(main())
"""
    ),
    "a global, opened on a loop that has ended": Way(
        """
runtime = load.runtime()
async def main():
    await runtime.aopen()
    load.tell()
asyncio.run(main())
assert not load.descendants(os.getpid()), "the loop has ended, and its workers have not"
try:
    runtime.pool().execute("ping")
except dspex.PoolClosed as error:
    sys.stderr.write(error.code)
runtime.close()
""",
        says="pool_closed",
    ),
    "a generator that was not finished": Way(
        """
async def opened():
    async with load.runtime() as runtime:
        yield runtime
async def main():
    runtimes = opened()
    await anext(runtimes)
    load.tell()
asyncio.run(main())
"""
    ),
    "a task that is cancelled": Way(
        """
async def main():
    async with load.runtime() as runtime:
        await load.aoccupy(runtime, MARK)
        load.tell()
        asyncio.current_task().cancel()
        await asyncio.sleep(60)
asyncio.run(main())
""",
        1,
        "asyncio.exceptions.CancelledError\n",
    ),
    "Ctrl-C on a loop": Way(
        """
async def main():
    runtime = await load.runtime().aopen()
    await load.aoccupy(runtime, MARK)
    load.tell()
    os.kill(os.getpid(), signal.SIGINT)
    await asyncio.sleep(60)
asyncio.run(main())
""",
        -2,
        "KeyboardInterrupt\n",
    ),
    "collected, twice": Way(
        """
for _ in range(2):
    runtime = load.runtime().open()
    family = load.descendants(os.getpid())
    pool = runtime.pool()
    del runtime
    gc.collect()
    assert pool.execute("ping") == "pong"
    load.tell()
    del pool
    gc.collect()
    load.until(lambda: not load.descendants(os.getpid()))
threads = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
for thread in threads:
    thread.join(20)
assert threading.active_count() == 1, threading.enumerate()
"""
    ),
    "collected on a loop that goes on": Way(
        """
async def main():
    await load.runtime().aopen()
    load.tell()
    gc.collect()
    while load.descendants(os.getpid()) or len(asyncio.all_tasks()) > 1:
        await asyncio.sleep(0.01)
asyncio.run(main())
"""
    ),
}
