"""One adapter, shared by several threads, as in a threaded web server.

Takes its model from DSPEX_LM and LM_BASE_URL, as quickstart.py does.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import dspex

LM = dspex.LM(os.environ.get("DSPEX_LM", "local"), base_url=os.environ.get("LM_BASE_URL"))
CITIES = ("Lisbon", "Oslo", "Prague", "Rome")


def main() -> None:
    """Ask about all cities at once."""
    with dspex.Runtime(lm=LM) as runtime, ThreadPoolExecutor(len(CITIES)) as executor:
        adapter = runtime.adapter(timeout=120.0)

        def country(city: str) -> str:
            response = adapter.generate(f"In which country is {city}?", signature="question -> country")
            return f"{city}: {response.country} (worker {response.worker})"

        for line in executor.map(country, CITIES):
            print(line)


if __name__ == "__main__":
    main()
