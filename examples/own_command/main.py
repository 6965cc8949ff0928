"""A command of one's own, then a question about what it found.

Takes its model from DSPEX_LM and LM_BASE_URL, as quickstart.py does. Run it as
``python examples/own_command/main.py``: the workers find ``texts.py`` where this script would.
"""

from __future__ import annotations

import logging
import os

import dspex

LM = dspex.LM(os.environ.get("DSPEX_LM", "local"), base_url=os.environ.get("LM_BASE_URL"))
TEXT = (
    "The lighthouse stood on a rock. Every night the keeper lit the lamp of the lighthouse. "
    "One night a storm put out the lamp, and the keeper climbed the lighthouse in the dark."
)


def main() -> None:
    """Count words in a worker, then ask for a title."""
    # What the command prints comes as records of this logger.
    logging.basicConfig(format="%(name)s: %(message)s")
    logging.getLogger("dspex.output").setLevel(logging.INFO)

    settings = dspex.Settings(allow_modules=("texts",))
    with dspex.Runtime(lm=LM, settings=settings) as runtime:
        words = runtime.pool().execute("texts.frequent", {"text": TEXT, "count": 3})
        print("frequent:", words)
        response = runtime.adapter(timeout=60.0).generate(
            signature="words: list[str] -> title", inputs={"words": [word for word, _ in words]}
        )
    print("title:", response.title)


if __name__ == "__main__":
    main()
