"""A process that changes a session's variable: ``python -m tests.incrementing STORE TIMES``."""

from __future__ import annotations

import sys
import threading

from dspex.testing import InProcessRuntime


def main(store: str, times: int) -> None:
    """Add one so many times at once, as soon as the other process is there too."""
    with InProcessRuntime(store=store) as runtime:
        session = runtime.adapter(tenant="t").session("shared")
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.readline()
        threads = [
            threading.Thread(target=session.update, args=("n", lambda n: n + 1, 0)) for _ in range(times)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
