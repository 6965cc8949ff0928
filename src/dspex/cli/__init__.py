"""The ``dspex`` command."""

from __future__ import annotations


def main() -> None:
    """Run the command line; the entry point of the ``dspex`` script."""
    from dspex.cli.app import app

    app()
