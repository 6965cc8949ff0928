"""Preloaded by workers whose every logger is to say all that it can."""

import logging

logging.basicConfig(level=logging.DEBUG, force=True)
