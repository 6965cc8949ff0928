"""One question, one answer.

DSPEX_LM names the model; without it the embedded one answers, which needs no key. LM_BASE_URL is the
address of a server of your own.
"""

from __future__ import annotations

import os

import dspex

LM = dspex.LM(os.environ.get("DSPEX_LM", "local"), base_url=os.environ.get("LM_BASE_URL"))


def main() -> None:
    """Ask, and show what came back."""
    with dspex.Runtime(lm=LM) as runtime:
        adapter = runtime.adapter(timeout=60.0)
        response = adapter.generate(
            "What is the capital of France?", module="dspy.ChainOfThought", signature="question -> answer"
        )
    print("reasoning:", response.reasoning)
    print("answer:", response.answer)
    print(f"{response.model}, {response.usage.total_tokens} tokens, {response.timing.total:.1f} s")


if __name__ == "__main__":
    main()
