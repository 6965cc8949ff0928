"""A support desk: a session per customer, with variables and a history, that goes on after a restart.

Takes its model from DSPEX_LM and LM_BASE_URL, as quickstart.py does, and its file from the command line.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import dspex

LM = dspex.LM(os.environ.get("DSPEX_LM", "local"), base_url=os.environ.get("LM_BASE_URL"))
DAY = 24 * 3600.0


def serve(store: Path, customer: str, message: str) -> None:
    """Answer one message, as a service would that knows nothing but its store."""
    with dspex.Runtime(lm=LM, store=store) as runtime:
        desk = runtime.adapter(timeout=60.0, tenant="kettles")
        session = desk.session(customer, ttl=30 * DAY, metadata={"channel": "mail"})
        asked = session.update("messages", lambda number: number + 1, default=0)
        response = session.chat(message)  # with all that this customer said before
        print(f"{customer} ({asked}): {response.reply}")


def look(store: Path) -> None:
    """What the desk has done."""
    with dspex.Runtime(store=store) as runtime:
        desk = runtime.adapter(tenant="kettles")
        for info in desk.sessions():
            came = desk.session(info.id).insights()
            print(f"{info.id}: {came.answered} answered, {came.usage.total_tokens} tokens")


def main() -> None:
    """Two customers, three messages, and a restart before each."""
    with tempfile.TemporaryDirectory() as folder:
        store = Path(sys.argv[1] if len(sys.argv) > 1 else folder) / "desk.db"
        serve(store, "ada", "My kettle leaks.")
        serve(store, "bob", "Do you sell toasters?")
        serve(store, "ada", "What did I say was wrong?")
        look(store)


if __name__ == "__main__":
    main()
