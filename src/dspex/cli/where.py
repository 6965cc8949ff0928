"""Which store the commands of sessions use."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import platformdirs

from dspex.runtime.storage import Storage

if TYPE_CHECKING:
    from sqlalchemy import Connection

    import dspex

T = TypeVar("T")

#: Said of ``--store`` by each command that has it.
STORE_HELP = (
    "A file, a database URL, or a reference to one such as env:DATABASE_URL. Default: the settings' store, "
    "else a file of your own under your data directory."
)


def store_of(given: str | None, settings: dspex.Settings) -> str:
    """What was named, else the settings' store, else the user's own file.

    A command ends at once, so memory is no place for what is to be there tomorrow.
    """
    if given is not None:
        return given
    named = str(settings.store)
    return str(platformdirs.user_data_path("dspex") / "sessions.db") if named == "memory" else named


def ask(store: str, work: Callable[[Connection, float], T]) -> T:
    """Run statements in a store, with no worker and no LM.

    Runtimes that were killed are taken note of first, so that no turn of theirs seems to run.

    Raises:
        InvalidOption: It is no store.
        StoreError: It cannot be used.
    """
    return asyncio.run(_ask(store, work))


async def _ask(store: str, work: Callable[[Connection, float], T]) -> T:
    storage, now = Storage(store), time.time()

    def all_of_it(connection: Connection) -> T:
        from dspex.session import owners

        owners.reap(connection, now)
        return work(connection, now)

    try:
        return await storage.write(all_of_it)
    finally:
        await storage.aclose()
