"""A question about a picture: a file's, or one behind an address that the provider opens.

Takes its model from DSPEX_LM and LM_BASE_URL, as quickstart.py does; it has to be one that sees.

    python photo.py holiday.png
    python photo.py https://example.org/holiday.png
"""

from __future__ import annotations

import os
import sys

import dspex

LM = dspex.LM(os.environ.get("DSPEX_LM", "openai/gpt-5-mini"), base_url=os.environ.get("LM_BASE_URL"))


def main(where: str) -> None:
    """Ask about one picture."""
    # On the command line whoever runs this names the file. In a service a text that came from outside
    # never goes into from_path.
    is_address = where.startswith(("https:", "http:"))
    image = dspex.Image(where) if is_address else dspex.Image.from_path(where)
    with dspex.Runtime(lm=LM) as runtime:
        response = runtime.adapter(timeout=60.0).generate(
            "What is in this picture?",
            signature="image: Image, question -> answer, things: list[str]",
            inputs={"image": image},
        )
    print(f"{image!r}: {response.answer} {response.things}")


if __name__ == "__main__":
    main(*sys.argv[1:])
