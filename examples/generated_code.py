"""A model writes a program, a sandbox runs it, and the model answers from what it gave.

pip install 'dspex[sandbox]'
DSPEX_LM=openai/gpt-5-mini OPENAI_API_KEY=... python examples/generated_code.py
"""

from __future__ import annotations

import os

import dspex

LM = dspex.LM(os.environ.get("DSPEX_LM", "local"), base_url=os.environ.get("LM_BASE_URL"))


def main() -> None:
    """Ask, and show what was run."""
    with dspex.Runtime(lm=LM) as runtime:
        adapter = runtime.adapter(timeout=60.0)
        try:
            r = adapter.generate(
                "How many numbers below 1000 are prime?",
                module="dspy.ProgramOfThought",
                signature="question -> answer: int",
            )
        except dspex.SandboxMissing as error:
            raise SystemExit(error.message) from None
        except dspex.SandboxError as error:
            for attempt in error.details["attempts"]:
                print(attempt["code"], attempt["error"], sep="\n")
            raise SystemExit(error.message) from None
        for attempt in r.trajectory:
            print(attempt["code"])
            print("gave", attempt["output"] or attempt["error"])
        print("answer:", r.answer)


if __name__ == "__main__":
    main()
