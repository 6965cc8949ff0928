"""A plain script: answers each line of a file.

Takes its model from DSPEX_LM and LM_BASE_URL, as quickstart.py does. Run it as
``python examples/script.py questions.txt > answers.txt``. It exits with 0 when all were answered, 1 when some
were not, 2 when it was called wrongly, and 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import dspex

options = argparse.ArgumentParser(description="Answer each line of a file.")
options.add_argument("questions", type=Path)
options.add_argument("--timeout", type=float, default=30.0, help="seconds for each")
chosen = options.parse_args()
try:
    questions = chosen.questions.read_text(encoding="utf-8").splitlines()
except OSError as error:
    options.error(str(error))

failed = 0
lm = dspex.LM(os.environ.get("DSPEX_LM", "local"), base_url=os.environ.get("LM_BASE_URL"))
try:
    with dspex.Runtime(lm=lm, pools={"general": dspex.PoolOptions(workers=1)}) as runtime:
        adapter = runtime.adapter(timeout=chosen.timeout)
        for question in questions:
            try:
                print(adapter.generate(question, signature="question -> answer").answer, flush=True)
            except dspex.DspexError as error:
                failed += 1
                print(f"{question}: {error.code}: {error.message}", file=sys.stderr)
except KeyboardInterrupt:
    sys.exit(130)
sys.exit(1 if failed else 0)
