"""What can go wrong, and what the errors say.

Takes its model from DSPEX_LM and LM_BASE_URL, as quickstart.py does.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import dspex

LM = dspex.LM(os.environ.get("DSPEX_LM", "local"), base_url=os.environ.get("LM_BASE_URL"))


def attempt(what: str, call: Callable[[], object]) -> None:
    """Make a call that fails, and show how."""
    try:
        call()
    except dspex.Refused as error:  # nothing ran: the call is wrong, or something is not set up
        print(f"{what}: refused, {error.code}\n  {error.message}")
    except dspex.PythonTimeout as error:
        print(f"{what}: {error.code} while {error.details['phase']}\n  {error.message}")
    except dspex.DspexError as error:
        again = "try again" if error.retryable else "do not try again"
        print(f"{what}: {error.code}, {again}\n  {error.message}")


def main() -> None:
    """Make one call of each kind."""
    with dspex.Runtime(lm=LM) as runtime:
        adapter = runtime.adapter(timeout=60.0)
        attempt("a slip in a type", lambda: adapter.generate("?", signature="question -> answer: itn"))
        attempt("a slip in a module", lambda: adapter.generate("?", module="dspy.ChainOfTought"))
        attempt("an option there is not", lambda: adapter.generate("?", max_hops=3))
        attempt("a missing input", lambda: adapter.generate(signature="context, question -> answer"))
        attempt(
            "no key", lambda: adapter.generate("?", lm=dspex.LM("openai/gpt-5-mini", api_key="env:NO_KEY"))
        )
        attempt(
            "no time",
            lambda: adapter.generate("Write a long story.", signature="task -> story", timeout=0.5),
        )
        unreachable = dspex.LM(
            "openai/model", base_url="http://127.0.0.1:9/v1", retry=dspex.Retry(attempts=1)
        )
        attempt("no server", lambda: adapter.generate("?", lm=unreachable))


if __name__ == "__main__":
    main()
