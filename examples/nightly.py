"""A job for cron: answers the lines of a file that have no answer yet.

Takes its model from DSPEX_LM and LM_BASE_URL, as quickstart.py does. A line for crontab::

    17 3 * * *  cd /srv/answers && .venv/bin/python nightly.py questions.txt answers.jsonl --seconds 3600

It writes its log beside the answers and prints nothing, so cron sends no mail unless it breaks. It exits with
0 when all is answered, 1 when some is left for the next night, and 75 when the last run has not ended.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import json
import logging
import os
import sys
from pathlib import Path
from typing import TextIO

import dspex

AT_ONCE = 16

log = logging.getLogger("nightly")


async def answer(adapter: dspex.DSPyAdapter, turn: asyncio.Semaphore, question: str, file: TextIO) -> None:
    """Ask one question, and write its answer down at once."""
    async with turn:
        try:
            response = await adapter.agenerate(question, signature="question -> answer")
        except dspex.DspexError as error:
            log.warning("%r: %s: %s", question, error.code, error.message)
            return
    file.write(json.dumps({"question": question, "answer": response.answer}) + "\n")
    file.flush()


async def answer_all(questions: list[str], file: TextIO, seconds: float) -> None:
    """Ask all of them, within one deadline for the whole job."""
    lm = dspex.LM(os.environ.get("DSPEX_LM", "local"), base_url=os.environ.get("LM_BASE_URL"))
    async with dspex.Runtime(lm=lm) as runtime:
        adapter, turn = runtime.adapter(timeout=60.0), asyncio.Semaphore(AT_ONCE)
        try:
            async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
                for question in questions:
                    group.create_task(answer(adapter, turn, question, file))
        except TimeoutError:
            log.warning("the job's %g s are over", seconds)


def answered(file: TextIO) -> set[str]:
    """What earlier runs have answered."""
    file.seek(0)
    return {json.loads(line)["question"] for line in file}


def main() -> int:
    """Run, unless another run has not ended."""
    options = argparse.ArgumentParser(description="Answer what has no answer yet.")
    options.add_argument("questions", type=Path)
    options.add_argument("answers", type=Path)
    options.add_argument("--seconds", type=float, default=3600.0, help="for the whole job")
    chosen = options.parse_args()
    logging.basicConfig(
        filename=chosen.answers.with_suffix(".log"),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        level=logging.INFO,
    )
    with chosen.answers.open("a+", encoding="utf-8") as file:
        try:
            # The kernel lets go of it when this process ends, however it ends.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.warning("the last run has not ended")
            return os.EX_TEMPFAIL
        wanted = dict.fromkeys(chosen.questions.read_text(encoding="utf-8").splitlines())
        done = answered(file)
        asyncio.run(answer_all([one for one in wanted if one not in done], file, chosen.seconds))
        left = wanted.keys() - answered(file)
    log.info("%d answered, %d left", len(wanted) - len(left), len(left))
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
