"""An agent with tools of this process: a function, a method, and one that somebody has to agree to.

Takes its model from DSPEX_LM and LM_BASE_URL, as quickstart.py does.
"""

from __future__ import annotations

import asyncio
import os

import dspex

LM = dspex.LM(os.environ.get("DSPEX_LM", "local"), base_url=os.environ.get("LM_BASE_URL"))


class Shop:
    """What the agent works with."""

    def __init__(self) -> None:
        self.stock = {"kettle": 3, "toaster": 0}
        self.orders: list[tuple[str, int]] = []

    def count(self, item: str) -> int:
        """How many of an item are in stock."""
        return self.stock[item]

    async def order(self, item: str, number: int = 1) -> str:
        """Order more of an item."""
        await asyncio.sleep(0.01)
        self.orders.append((item, number))
        return f"{number} of {item} ordered"


def agree(request: dspex.ToolRequest) -> dspex.Allow | dspex.Deny:
    """Nobody orders more than ten."""
    if request.arguments.get("number", 1) > 10:
        return dspex.Deny("at most ten at once")
    return dspex.Allow()


def main() -> None:
    """Have the agent look, and order what is missing."""
    shop = Shop()
    with dspex.Runtime(lm=LM) as runtime:
        response = runtime.adapter(timeout=120.0).generate(
            "Order toasters if there are none.",
            module="ReAct",
            signature="question -> answer",
            tools=[shop.count, dspex.Tool(shop.order, approve=agree)],
            max_iters=5,
        )
    for called in response.tool_calls:
        print(f"{called.tool}({called.arguments}): {called.status} {called.error or ''}".rstrip())
    print(f"orders: {shop.orders}")


if __name__ == "__main__":
    main()
