"""A journal written beside the loop: records that come together go to the disk together."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from dspex.batch.journal import Journal, Record


class Writer:
    """Writes one journal, on a thread of its own.

    Args:
        journal: The journal.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="dspex-journal")
        self._waiting: list[tuple[Record, asyncio.Future[None]]] = []
        self._busy: asyncio.Task[None] | None = None

    async def find(self, index: int) -> Record | None:
        """The record of an item; None when there is none."""
        if not self._journal.has(index):
            return None
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._journal.find, index)

    async def append(self, record: Record) -> None:
        """Write a record, and return when it is on disk.

        Raises:
            StoreError: It cannot be written.
        """
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((record, written))
        if self._busy is None:
            self._busy = asyncio.create_task(self._write())
        await written

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                taken, self._waiting = self._waiting, []
                try:
                    await loop.run_in_executor(
                        self._thread, self._journal.append, [record for record, _ in taken]
                    )
                except BaseException as error:  # noqa: BLE001 (each that waits is told)
                    for _, written in taken:
                        if not written.done():
                            written.set_exception(error)
                else:
                    for _, written in taken:
                        if not written.done():
                            written.set_result(None)
        finally:
            self._busy = None

    async def aclose(self) -> None:
        """Write what waits, and let go of the journal."""
        while self._busy is not None:
            await asyncio.wait([self._busy])
        await asyncio.get_running_loop().run_in_executor(self._thread, self._journal.close)
        self._thread.shutdown(wait=False)
