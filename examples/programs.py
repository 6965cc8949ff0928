"""A program of two stages, stored: called, changed, taken back, and carried elsewhere as JSON.

Takes its model from DSPEX_LM and LM_BASE_URL, as quickstart.py does.
"""

from __future__ import annotations

import json
import os

import dspex

LM = dspex.LM(os.environ.get("DSPEX_LM", "local"), base_url=os.environ.get("LM_BASE_URL"))


def main() -> None:
    """Make it, change it, take that back, and have another session import it."""
    with dspex.Runtime(lm=LM) as runtime:
        adapter = runtime.adapter(timeout=60.0)
        program = adapter.create_program(
            "letter -> answer",
            modules=[
                dspex.Stage("dspy.Predict", signature="letter -> topic, tone"),
                # It gets the letter, and the first stage's outputs as previous_topic and previous_tone.
                dspex.Stage("dspy.ChainOfThought"),
            ],
            name="reply",
        )
        response = program("My kettle leaks.")
        for stage in response.stages:
            print(f"{stage.module}: {', '.join(stage.outputs)}")

        number = program.change(instructions="Answer in one sentence.")
        print(f"now it is version {number}")
        print(f"back at version {program.rollback(1)}")

        document = json.dumps(program.export())  # no keys, no code: it may go into a repository
        copy = adapter.session("elsewhere").import_program(json.loads(document))
        print(f"{copy.name} in {copy.session_id}, version {copy.version}: {copy('It still leaks.').answer}")


if __name__ == "__main__":
    main()
