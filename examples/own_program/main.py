"""Programs of one's own, named by import path.

Takes its model from DSPEX_LM and LM_BASE_URL, as quickstart.py does. Run it as
``python examples/own_program/main.py``: the workers find the package ``shop`` where this script would.
"""

from __future__ import annotations

import os
from pathlib import Path

import dspex

LM = dspex.LM(os.environ.get("DSPEX_LM", "local"), base_url=os.environ.get("LM_BASE_URL"))
MESSAGE = "I was charged twice for my kettle. Please pay one of them back."


def main() -> None:
    """Route a message, and sum it up."""
    settings = dspex.Settings(allow_modules=("shop",))
    with dspex.Runtime(lm=LM, settings=settings) as runtime:
        takes = runtime.pool().execute("describe", {"module": "shop.support:Router"})["inputs"]
        print("takes:", ", ".join(takes))
        adapter = runtime.adapter(timeout=120.0)
        routed = adapter.generate(MESSAGE, module="shop.support:Router", inputs={"tone": "short"})
        print("team:", routed.team)
        print("reply:", routed.reply)
        print("requests:", len(routed.requests))
        print("summary:", adapter.generate(MESSAGE, module="shop.support:Summary").summary)
        program = adapter.program("shop.support:Reply", arguments={"sender": "Kim"})
        print("signed:", program(message=MESSAGE).reply)
        # What an optimizer has learned, as module.save("reply.json") wrote it: calls go on meanwhile.
        version = program.swap(Path(__file__).parent / "reply.json")
        print("version", version, "signed:", program(message=MESSAGE).reply)


if __name__ == "__main__":
    main()
