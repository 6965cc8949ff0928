"""Outputs as objects of your own classes: a pydantic model says what to find in a mail.

Takes its model from DSPEX_LM and LM_BASE_URL, as quickstart.py does.
"""

from __future__ import annotations

import os
from enum import Enum

from pydantic import BaseModel, Field

import dspex

LM = dspex.LM(os.environ.get("DSPEX_LM", "local"), base_url=os.environ.get("LM_BASE_URL"))
MAIL = "The kettle I got on Monday leaks, and the toaster is the wrong colour. Please call me today."


class Kind(Enum):
    """What a mail is."""

    ORDER = "order"
    COMPLAINT = "complaint"
    QUESTION = "question"


class Product(BaseModel):
    """A product that a mail is about."""

    name: str
    fault: str | None = None


class Triage(BaseModel):
    """Sort a mail that a customer wrote to a shop."""

    kind: Kind
    urgent: bool = Field(description="whether somebody has to answer today")
    products: list[Product] = Field(description="the products that the mail is about")
    summary: str = Field(description="one sentence")


def main() -> None:
    """Sort one mail."""
    with dspex.Runtime(lm=LM) as runtime:
        response = runtime.adapter(timeout=60.0).generate(MAIL, signature=Triage)
    for name, value in response.outputs.items():
        print(f"{name}: {value!r}")


if __name__ == "__main__":
    main()
