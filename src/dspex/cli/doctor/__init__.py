"""``dspex doctor``: what of this machine dspex needs, each thing tried and not assumed."""
