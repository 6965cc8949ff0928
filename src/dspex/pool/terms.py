"""What the workers of a pool are told before their first call."""

from __future__ import annotations

from dspex.pool.lifespan import most_data
from dspex.settings import PoolOptions, Settings
from dspex.types import SandboxRules
from dspex.wire.messages import WorkerOptions


def terms(options: PoolOptions, settings: Settings, slots: int) -> WorkerOptions:
    """What a worker may run, and within which bounds.

    Args:
        options: How the pool is run.
        settings: What holds for the whole runtime.
        slots: How many calls the worker has at once.
    """
    return WorkerOptions(
        slots,
        list(settings.allow_modules),
        settings.max_payload,
        settings.max_result,
        isolated=options.isolation == "call",
        max_memory=most_data(options.max_rss, slots),
        show_unsendable=settings.show_unsendable,
        sandbox=SandboxRules(
            settings.sandbox_seconds, settings.sandbox_memory, local=settings.allow_local_interpreter
        ),
    )
