"""Options: what there is, where it is written, and which of it holds."""

from dspex.settings.options import MiB, PoolOptions
from dspex.settings.settings import Settings, Source

__all__ = ["MiB", "PoolOptions", "Settings", "Source"]
