"""What a batch would cost: a guess from lengths and LiteLLM's table of prices, read as the file it is."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

# English text has about four characters a token (OpenAI's rule of thumb); other languages have fewer.
_CHARACTERS = 4
_TABLE = "model_prices_and_context_window_backup.json"


class Estimate(NamedTuple):
    """The guess.

    Attributes:
        rows: How many would be asked.
        tokens: Of the inputs alone.
        price: Of these, in dollars; None when it is not known.
        unknown: What is not in it.
    """

    rows: int
    tokens: int
    price: float | None
    unknown: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON-ready data."""
        return {
            "rows": self.rows,
            "input_tokens": self.tokens,
            "input_price": self.price,
            "unknown": list(self.unknown),
        }

    def text(self) -> str:
        """All of it for people."""
        price = "price unknown" if self.price is None else f"${self.price:.4f}" if self.price else "free"
        lines = [f"{self.rows} rows, about {self.tokens} tokens of inputs, {price}"]
        return "\n".join(lines + [f"not in it: {what}" for what in self.unknown])


def estimate(rows: int, characters: int, model: str | None) -> Estimate:
    """Guess from the number of rows and the length of their inputs."""
    tokens = -(-characters // _CHARACTERS)
    unknown = [
        "the instructions that go with each row",
        "what the model answers",
        "further requests of a module",
    ]
    price = None
    if model is None:
        unknown.append("the price: no LM is named, pass --lm")
    elif model == "local" or model.startswith("local:"):
        price = 0.0
    else:
        each = _price(model)
        if each is None:
            unknown.append(f"the price: none is known for {model!r}")
        else:
            price = tokens * each
    return Estimate(rows, tokens, price, tuple(unknown))


def _price(model: str) -> float | None:
    """Dollars for a token that a model reads."""
    # Importing LiteLLM takes seconds; where it lies can be told without.
    found = find_spec("litellm")
    for place in (found.submodule_search_locations or []) if found is not None else []:
        path = Path(place, _TABLE)
        if path.is_file():
            table = json.loads(path.read_text(encoding="utf-8"))
            entry = table.get(model) or table.get(model.partition("/")[2]) or {}
            price = entry.get("input_cost_per_token")
            return None if price is None else float(price)
    return None
