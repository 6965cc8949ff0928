"""Stands in for pools with ``isolation="call"`` until there are any."""

from __future__ import annotations

from typing import Any

import msgspec

from dspex.lm.gate import Gates
from dspex.pool.handle import WorkerHandle
from dspex.pool.pool import LocalPool
from dspex.pool.zygote_client import Zygote
from dspex.settings import PoolOptions, Settings
from dspex.wire.messages import Shutdown


class OneCallPool(LocalPool):
    """Isolated workers, each ended after its call."""

    def __init__(
        self, name: str, options: PoolOptions, settings: Settings, zygote: Zygote, gates: Gates
    ) -> None:
        one = msgspec.structs.replace(options, workers=4, slots=1, isolation="call")
        super().__init__(name, one, settings, zygote, gates)
        self._supervisor._options = msgspec.structs.replace(self._supervisor._options, isolated=True)

    def _on_answer(self, worker: WorkerHandle, *answer: Any) -> None:
        worker._state = "stopping"  # it takes no other call
        super()._on_answer(worker, *answer)
        worker._channel.send(Shutdown())
