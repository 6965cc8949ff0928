"""Outputs of declared types, from a signature with instructions and descriptions.

Takes its model from DSPEX_LM and LM_BASE_URL, as quickstart.py does.
"""

from __future__ import annotations

import os

import dspex

LM = dspex.LM(os.environ.get("DSPEX_LM", "local"), base_url=os.environ.get("LM_BASE_URL"))
TRIAGE = dspex.Signature(
    inputs=(dspex.Field("mail"),),
    outputs=(
        dspex.Field("kind", "Literal['order', 'complaint', 'question']"),
        dspex.Field("urgent", "bool", "whether somebody has to answer today"),
        dspex.Field("products", "list[str]", "the products that the mail is about"),
        dspex.Field("summary", description="one sentence"),
    ),
    instructions="Sort a mail that a customer wrote to a shop.",
)
MAIL = "The kettle I got on Monday leaks, and the toaster is the wrong colour. Please call me today."


def main() -> None:
    """Sort one mail."""
    with dspex.Runtime(lm=LM) as runtime:
        response = runtime.adapter(timeout=60.0).generate(MAIL, signature=TRIAGE)
    for name, value in response.outputs.items():
        print(f"{name}: {value!r} ({type(value).__name__})")


if __name__ == "__main__":
    main()
