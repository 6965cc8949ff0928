"""Which LM a command asks, and what answers it needs."""

from __future__ import annotations

import os
from importlib.util import find_spec

import dspex


def one_worker(settings: dspex.Settings) -> dict[str, dspex.PoolOptions | None]:
    """One question needs one worker, prepared as the settings say, and its companion, but no other pool."""
    general = settings.pools.get("general", dspex.PoolOptions())
    one = dspex.PoolOptions(workers=1, pass_env=general.pass_env, preload=general.preload)
    return {**{name: None for name in settings.pools if name != one.isolated}, "general": one}


def choose(
    lm: str | None, base_url: str | None, api_key: str | None, settings: dspex.Settings
) -> dspex.LM | str | None:
    """The LM asked for, else the environment's, else the file's, else the embedded one if it is installed.

    Raises:
        InvalidOption: The options do not make an LM.
        UnknownProvider: It names a provider that is not known.
    """
    chosen = lm or os.environ.get("DSPEX_LM") or settings.default_lm
    if not chosen:
        if base_url or api_key:
            raise dspex.InvalidOption(
                "--base-url and --api-key need --lm, the model to ask for there: --lm openai/<model>",
                details={"option": "lm"},
            )
        return dspex.LM("local") if find_spec("xllamacpp") is not None else None
    if api_key is not None and not api_key.startswith(("env:", "file:", "keyring:")):
        raise dspex.InvalidOption(
            "a key on a command line can be read by everybody on this machine; put it in a variable and "
            "pass --api-key env:NAME, or into a file: --api-key file:/path",
            details={"option": "api_key"},
        )
    if base_url is None and api_key is None:
        # The runtime reads the settings' default itself, and tells where it stands if it is wrong.
        return lm or os.environ.get("DSPEX_LM")
    if chosen in settings.lms:
        raise dspex.InvalidOption(
            f"--base-url and --api-key go with a model, and {chosen!r} is a profile with its own; name the "
            "model with --lm",
            details={"option": "lm"},
        )
    return dspex.LM(chosen, base_url=base_url, api_key=api_key)
