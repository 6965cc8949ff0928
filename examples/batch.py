"""Rows of which none is asked twice: stop it with Ctrl-C, and start it again."""

import sys

import dspex

journal = sys.argv[1] if len(sys.argv) > 1 else "labels.journal"
rows = ({"text": f"Complaint number {number}"} for number in range(20))

with dspex.Runtime() as runtime:
    outcomes = runtime.adapter().batch(
        rows,
        signature="text -> label: Literal['late', 'broken', 'other']",
        journal=journal,
        as_completed=True,
    )
    with outcomes:
        for outcome in outcomes:
            print(outcome.index, outcome.response.label if outcome.response else outcome.error)
    print(f"{journal} has all of them", file=sys.stderr)
