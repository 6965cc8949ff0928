"""Typed values that are more than plain data: files, code, citations, turns. They are made without DSPy."""
