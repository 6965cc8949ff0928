"""Runs the provider in a process of its own: ``python tests/provider --delay 0.2 --port 0``.

It prints its base URL for OpenAI clients, then serves until its standard input closes or it is terminated.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if not __package__:  # started by its path, so that the package's own folder is what is searched
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from tests.provider import Provider, delayed, echo, paced


def main() -> None:
    """Read the options, announce the address and serve."""
    options = argparse.ArgumentParser(description="A scripted LM provider on the loopback interface.")
    options.add_argument("--delay", type=float, default=0.0, help="seconds before each reply")
    options.add_argument("--port", type=int, default=0, help="port to listen on; 0 takes a free one")
    options.add_argument("--cut", type=int, help="characters of a piece, for clients that stream")
    options.add_argument("--pause", type=float, default=0.0, help="seconds between two pieces")
    chosen = options.parse_args()
    reply = delayed(chosen.delay, paced(echo(), cut=chosen.cut, pause=chosen.pause))
    with Provider(lambda _: reply, port=chosen.port, record=False) as provider:
        sys.stdout.write(provider.base_url + "\n")
        sys.stdout.flush()
        sys.stdin.buffer.read()


if __name__ == "__main__":
    main()
