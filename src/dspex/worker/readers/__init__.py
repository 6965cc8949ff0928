"""Replies of a model taken apart while they come, one reader for each of DSPy's formats."""
