"""A Celery task that asks a model.

Takes its model from DSPEX_LM and LM_BASE_URL, as quickstart.py does, and its broker from
CELERY_BROKER_URL. Run it as ``celery -A celery_app worker`` in this folder.
"""

from __future__ import annotations

import os
from typing import Any

from celery import Celery, Task, signals

import dspex

app = Celery("answers")
runtime: dspex.Runtime | None = None


@signals.worker_process_init.connect
def open_runtime(**_: object) -> None:
    """Open a runtime in each process of the prefork pool, after the fork."""
    global runtime  # noqa: PLW0603
    lm = dspex.LM(os.environ.get("DSPEX_LM", "local"), base_url=os.environ.get("LM_BASE_URL"))
    pools = {"general": dspex.PoolOptions(workers=1)}
    # Celery gives a process four seconds to start, so it does not wait for DSPy: the first task does.
    runtime = dspex.Runtime(lm=lm, pools=pools, wait=False).open()


@signals.worker_process_shutdown.connect
def close_runtime(**_: object) -> None:
    """Close it with its process."""
    if runtime is not None:
        runtime.close()


@app.task(bind=True, max_retries=3)
def answer(self: Task[[str], str], question: str) -> str:
    """Answer a question; try again later if that may help."""
    assert runtime is not None
    try:
        response: Any = runtime.adapter(timeout=60.0).generate(question, signature="question -> answer")
    except dspex.DspexError as error:
        if error.retryable:
            raise self.retry(exc=error, countdown=error.retry_after or 5.0) from error
        raise
    return str(response.answer)
